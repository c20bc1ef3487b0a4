"""``edgekit profile BUNDLE``: measure one bundle on each device and choose which of its models to run there.

Nothing here needs the packages that trained or exported the models: the bundle describes them and holds their scores,
and engines run in separate processes.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from edgekit import __version__
from edgekit.console import Console
from edgekit.deploy import bundle
from edgekit.device.file import Device
from edgekit.disk import json_file
from edgekit.disk.atomic import write_bytes
from edgekit.disk.run_directory import RunDirectory
from edgekit.errors import InputError
from edgekit.measurements import Failure, Profile, Replay, Verdict
from edgekit.pipeline.results import Results
from edgekit.pipeline.run import Outcome
from edgekit.profile import golden, hotspots, run
from edgekit.report import files
from edgekit.report.contents import Provenance, Report, Source, StageRow, gather
from edgekit.runtime.bundle import Bundle, open_bundle
from edgekit.runtime.errors import RuntimeFault
from edgekit.scores import Accuracy
from edgekit.types import SUFFIXES, TORCH_FP32, Artifact, Split, TensorSpec
from edgekit.verdict import rule as verdict
from edgekit.verdict import trust

OWN = "measured"
"""Folder beside the reports: the models and the measurements, for later calls."""


def matches(target: str) -> bool:
    """Whether a word of the command line means a bundle or a manifest (or a bare model, which is refused)."""
    path = Path(target)
    if path.suffix in (bundle.SUFFIX, ".json", *SUFFIXES.values()):
        return True
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PK\3\4"
    except OSError:
        return False


def profile(
    path: Path,
    devices: Mapping[str, Device],
    console: Console,
    out: Path | None = None,
    operators: bool = True,
    again: bool = False,
) -> Outcome:
    """Measure every model of a bundle on every device, replay its golden vectors there, and write the reports.

    What was measured before is taken from the folder, as in `edgekit.profile.run.profile`.

    Args:
        path: a bundle, or a hand-written manifest (which is packed first).
        devices: by the name used in results.
        console: progress.
        out: folder of the reports; None is ``profiles/<name of the bundle>``.
        operators: also time the operators of the fastest models.
        again: measure even what was measured before.

    Returns:
        As for a run; `Outcome.lost` lists what the same call would measure on a retry.

    Raises:
        InputError: not a bundle, a damaged one, or the folder cannot be written.
        Shortfall: nothing at all could be measured.
    """
    start = time.perf_counter()
    name = _opened(path).manifest["name"]
    out = out or Path("profiles") / name
    if (out / "recipe.json").exists():
        raise InputError(f"{out}: this is a run directory; give --out another folder for the profile of a bundle")
    with RunDirectory(out).locked():
        if path.suffix == ".json":
            packed = out / f"{name}{bundle.SUFFIX}"
            bundle.write(packed, bundle.from_manifest(path))
            path = packed
        opened = _opened(path)
        artifacts = [_artifact(opened, entry) for entry in opened.manifest["artifacts"]]
        _unpack(opened, out / OWN / "models")
        if again:
            for kept in ("timings", "golden", "operators"):
                shutil.rmtree(out / OWN / kept, ignore_errors=True)
        stages = [StageRow("bundle", time.perf_counter() - start, reason=f"models, scores, vectors from {path.name}")]
        for line in (claims := _claims(opened.manifest)).notes:
            console.say(f"{path.name}: {line}")
        console.say("profile ...")
        start = time.perf_counter()
        measured = _measured(path, artifacts, devices, console, out / OWN, operators)
        stages.append(StageRow("profile", time.perf_counter() - start))
        verdicts = [_verdict(name, device, artifacts, claims, measured) for name, device in devices.items()]
        report = _report(opened, artifacts, claims, stages, measured, devices, verdicts)
        files.write(report, out)
        json_file.save(out / "verdict.json", verdicts)
    lost = tuple(failure for failure in measured.failures if failure.lost)
    results = Results(None, None, tuple(artifacts), claims.accuracy, measured.timings, measured.machines)
    return Outcome(out, tuple(stages), tuple(verdicts), out, path, lost, report.warnings, results)


def _opened(path: Path) -> Bundle:
    if path.suffix in SUFFIXES.values():
        raise InputError(f"{path}: a bare model; give a bundle, or a manifest (.json) in its folder that names it")
    try:
        opened = open_bundle(path, verify="hash")
        opened.check_models()
        return opened
    except RuntimeFault as fault:
        raise InputError(str(fault)) from fault


def _unpack(opened: Bundle, folder: Path) -> None:
    """Unpack only the models: devices read the rest from the bundle itself."""
    if folder.exists():
        shutil.rmtree(folder)
    for entry in opened.manifest["artifacts"]:
        file = folder / entry["file"]
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(file, opened.read(entry["file"]))


def _artifact(opened: Bundle, entry: Mapping[str, Any]) -> Artifact:
    member = opened.manifest["members"][entry["file"]]
    return Artifact(
        id=entry["id"],
        format=entry["format"],
        precision=entry.get("precision", "unknown"),
        path=entry["file"],
        sha256=member["sha256"],
        bytes=member["bytes"],
        float_ops=entry.get("float_ops", -1),
        float_op_names=(),
        input=_tensor(entry["input"]),
        output=_tensor(entry["output"]),
        lowered=tuple(entry.get("lowered", ())),
    )


def _tensor(port: Mapping[str, Any]) -> TensorSpec:
    shape, layout = tuple(port["shape"]), port.get("layout", "")
    return TensorSpec(port.get("name", ""), shape, port["dtype"], layout, port.get("scale"), port.get("zero_point"))


def _measured(
    path: Path,
    artifacts: Sequence[Artifact],
    devices: Mapping[str, Device],
    console: Console,
    own: Path,
    operators: bool,
) -> Profile:
    models = own / "models"
    doubts = partial(verdict.uncertain, artifacts)
    measured = run.profile(artifacts, models, devices, console, own / "timings", path, doubts=doubts)
    replayed, failures = golden.replay(path, devices, measured, console, own / "golden")
    measured = replace(measured, golden=tuple(replayed), failures=(*measured.failures, *failures))
    if operators:
        timed, failures = hotspots.find(artifacts, models, devices, measured, console, own / "operators")
        measured = replace(measured, operators=tuple(timed), failures=(*measured.failures, *failures))
    return measured


# What the bundle claims ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Claims:
    """How the models scored where the bundle was packed."""

    accuracy: tuple[Accuracy, ...]
    max_drop: float | None
    """The recipe's; None if the score of torch fp32 is unknown."""
    notes: tuple[str, ...]
    """What is missing, and what is used instead."""


def _claims(manifest: Mapping[str, Any]) -> _Claims:
    rows: list[Accuracy] = []
    notes: list[str] = []
    for entry in manifest["artifacts"]:
        for said in entry.get("accuracy", ()):
            if said.get("split") in get_args(Split):
                rows.append(_score(entry["id"], said))
            else:
                notes.append(f"the score of {entry['id']} on {said['engine']} names no known split, so it was ignored")
    wanted = _max_drop(manifest)
    if not rows:
        notes.append("its files have no accuracy scores: their loss against float is unknown")
        return _Claims((), None, tuple(notes))
    reference = _stated(manifest)
    if reference is None:
        same = next((row for row in rows if row.agreement == 1 and row.split == "test"), None)
        if same is not None:
            notes.append(f"torch fp32 gets the score of {same.artifact}: they agree on all {same.images} test images")
            reference = replace(same, artifact=TORCH_FP32, engine="torch", engine_version="")
        elif wanted is not None:
            notes.append(f"it has no score of torch fp32: max_drop = {wanted:g} of its recipe cannot be checked")
            wanted = None
    return _Claims((*([reference] if reference else []), *rows), wanted, tuple(notes))


def _score(artifact: str, said: Mapping[str, Any]) -> Accuracy:
    return Accuracy(
        artifact=artifact,
        engine=said["engine"],
        engine_version=said.get("engine_version", ""),
        device=f"{said.get('device', 'unknown')}, when packed",  # its "host" is another machine
        split=said["split"],
        images=said["images"],
        top1=float(said["top1"]),
        agreement=float(said["agreement"]),
        passed=said.get("passed", True),
        problem="" if said.get("passed", True) else "as the bundle says",
    )


def _stated(manifest: Mapping[str, Any]) -> Accuracy | None:
    """The score of torch fp32, if the bundle has it."""
    stated = manifest.get("provenance", {}).get("reference")
    if not isinstance(stated, Mapping):
        return None
    row = {**stated, "artifact": TORCH_FP32, "agreement": 1.0, "device": f"{stated.get('device')}, when packed"}
    try:
        score = TypeAdapter(Accuracy).validate_python(row)
    except ValidationError:  # from another version of edgekit: the files' scores suffice
        return None
    return score if 0 <= score.top1 <= 1 and score.images > 0 else None


def _max_drop(manifest: Mapping[str, Any]) -> float | None:
    section = (manifest.get("recipe") or {}).get("quantize") or {}
    if not isinstance(section, Mapping):
        raise InputError(f"{manifest['name']}: recipe.quantize of the manifest is not a section; pack it again")
    value = section.get("max_drop")
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise InputError(f"{manifest['name']}: recipe.quantize.max_drop of the manifest is not a number; pack it again")
    return None if value is None else float(value)


# What follows --------------------------------------------------------------------------------------


def _verdict(name: str, device: Device, artifacts: Sequence[Artifact], claims: _Claims, measured: Profile) -> Verdict:
    """As for a run; a model that fails its golden vectors on a device is not shipped there."""
    replayed = {(row.artifact, row.engine): row for row in measured.golden if row.device == name}
    refused = {key: f"it fails its golden vectors: {row.problem}" for key, row in replayed.items() if row.problem}
    scores, machine = claims.accuracy or None, measured.machines.get(name)
    decided = verdict.decide(
        name, artifacts, scores, measured.timings, device.limits, claims.max_drop, refused, machine
    )
    if decided.artifact is None or decided.engine is None:
        return decided
    words = _caution(replayed.get((decided.artifact, decided.engine)), decided, measured.failures)
    return replace(decided, reason=decided.reason + words)


def _caution(row: Replay | None, decided: Verdict, failures: Sequence[Failure]) -> str:
    if row is not None:
        return "" if row.held else "; the bundle has no golden vectors for it"
    here = (decided.device, decided.artifact, decided.engine)
    why = [f.reason for f in failures if (f.device, f.artifact, f.engine) == here and f.reason.startswith("golden: ")]
    return f"; its golden vectors were not replayed there: {why[0].removeprefix('golden: ')}" if why else ""


def _report(
    opened: Bundle,
    artifacts: Sequence[Artifact],
    claims: _Claims,
    stages: Sequence[StageRow],
    measured: Profile,
    devices: Mapping[str, Device],
    verdicts: Sequence[Verdict],
) -> Report:
    manifest = opened.manifest
    recipe = dict(manifest.get("recipe") or {})
    if "description" in manifest:
        recipe["description"] = manifest["description"]
    return gather(
        name=manifest["name"],
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        edgekit_version=__version__,
        recipe=recipe,
        stages=stages,
        provenance=_provenance(opened, claims),
        artifacts=artifacts,
        accuracy=claims.accuracy,
        profile=measured,
        limits={name: device.limits.bounds for name, device in devices.items()},
        verdict=verdicts,
        warnings=_warnings(claims),
    )


def _warnings(claims: _Claims) -> list[str]:
    """Whether the files were scored on too few images for the recipe's bound."""
    images = min((row.images for row in claims.accuracy if row.split == "test"), default=0)
    text = "" if claims.max_drop is None else trust.resolution(images, claims.max_drop)
    return [f"test split, when packed: {text}"] if text else []


def _provenance(opened: Bundle, claims: _Claims) -> Provenance:
    """The bundle's provenance, as far as it has the usual form: the schema does not fix one."""
    said = opened.manifest.get("provenance", {})

    def table(key: str, kind: type) -> dict[str, Any]:
        rows = said.get(key)
        return {k: v for k, v in rows.items() if type(v) is kind} if isinstance(rows, Mapping) else {}

    def word(key: str) -> str | None:
        return said[key] if isinstance(said.get(key), str) else None

    source = Source(Path(opened.path).name, opened.digest, opened.signed_by, word("edgekit"), claims.notes)
    return Provenance(table("packages", str), table("seeds", int), table("hashes", str), word("git_commit"), source)
