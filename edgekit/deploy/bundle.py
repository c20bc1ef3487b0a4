"""Bundles on the host: what goes into one, and writing it. Uses the standard library, and the runtime that reads it.

The bundle stage writes a bundle of every verified file into the run directory; `from_run` takes from it what a device
needs and adds the verdict; `from_manifest` packs a model that was made elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit import choices
from edgekit.disk.atomic import cannot_write, remove, write_bytes
from edgekit.disk.run_directory import UNVERIFIED, Done, RunDirectory
from edgekit.errors import InputError, Shortfall
from edgekit.runtime import manifest_file
from edgekit.runtime.archive import MANIFEST, SIGNATURE, canonical
from edgekit.runtime.bundle import open_bundle
from edgekit.runtime.errors import RuntimeFault

SUFFIX = ".edgekit"


@dataclass(frozen=True)
class Contents:
    """A bundle in memory."""

    manifest: Mapping[str, Any]
    """The manifest, without the hashes of the members."""
    members: Mapping[str, bytes]
    """Every member except ``manifest.json`` and ``signature.json``."""

    @property
    def name(self) -> str:
        """Name of its file, without the suffix."""
        return str(self.manifest["name"])


def seal(contents: Contents) -> dict[str, bytes]:
    """All members of an unsigned bundle, including ``manifest.json`` with the size and SHA-256 of all others."""
    members = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in contents.members.items()
    }
    text = json.dumps(
        {**contents.manifest, "members": members}, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False
    )
    return {MANIFEST: text.encode() + b"\n", **contents.members}


def write(path: Path, contents: Contents, key: Path | None = None, replay: bool = False) -> None:
    """Write a bundle to a temporary file, and rename it once the runtime has opened it.

    Args:
        path: the file to write; an existing one is replaced.
        contents: what goes in.
        key: file of a private key to sign with.
        replay: also replay the golden vectors of each file in the engine that made them.

    Raises:
        InputError: the key cannot be used, or the file cannot be written.
        DiskFull: no room for the file.
        Shortfall: the runtime refuses the bundle, or an engine does not reproduce the golden outputs.
    """
    members = seal(contents)
    if key is not None:
        from edgekit.deploy.keys import signature

        members[SIGNATURE] = signature(members[MANIFEST], key)
    put(path, members, replay)


def put(path: Path, members: Mapping[str, bytes], replay: bool = False) -> None:
    """Like `write`, for sealed members."""
    beside = path.with_name(f".{path.name}.new")
    try:
        write_bytes(beside, canonical(members))
        _check(beside, replay)
        beside.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    except RuntimeFault as fault:
        raise Shortfall(f"{path}: not written, as the runtime refuses it: {fault}") from fault
    finally:
        remove(beside)


def _check(path: Path, replay: bool) -> None:
    """Open it as a device does; with `replay` also run each file in the engine that made its golden outputs."""
    bundle = open_bundle(str(path), verify="hash")
    bundle.check_models()
    if not replay:
        return
    from edgekit.runtime import load

    for artifact in bundle.manifest["artifacts"]:
        load(str(path), engine=artifact["golden"]["engine"], artifact=artifact["id"], verify="golden").close()


# From a run ----------------------------------------------------------------------------------------


def from_run(
    run: Path, device: str | None = None, ids: Sequence[str] = (), say: Callable[[str], None] = lambda _: None
) -> Contents:
    """What the bundle of a run directory holds for one device, or for all devices.

    Args:
        run: a run directory, as `edgekit compress` and `edgekit run` leave it.
        device: take only the file that the verdict chose for this device; None takes all verified files, starting
            with those that the verdicts chose.
        ids: only these artifacts.
        say: called with a message about anything that is left out.

    Raises:
        InputError: not a run directory, one without a bundle or verdict, or no such device or artifact.
        Shortfall: the files failed verification, or none of them meets the limits on that device.
    """
    if device and ids:
        raise InputError("give --device or --artifact: the verdict on the device chooses the file")
    done = _bundled(run)
    (path,) = done.path.glob(f"*{SUFFIX}")
    bundle = open_bundle(str(path), verify="hash")
    rows = _verdicts(run, done)
    if device:
        rows = [_of_device(rows, device, run)]
        chosen = [str(rows[0]["artifact"])]
    else:
        if not rows:
            say(f"packed without a verdict, as these files have no report: edgekit report {run} --device NAME")
        known = [str(artifact["id"]) for artifact in bundle.manifest["artifacts"]]
        for word in ids:
            if word not in known:
                raise InputError(f"--artifact: {choices.no_such(word, known, 'verified artifact')}")
        chosen = [word for row in rows if (word := row["artifact"]) in known]
        chosen = [word for word in dict.fromkeys([*chosen, *known]) if not ids or word in ids]
    by_id = {artifact["id"]: artifact for artifact in bundle.manifest["artifacts"]}
    artifacts = [
        {**by_id[word], "devices": [row["device"] for row in rows if row["artifact"] == word]} for word in chosen
    ]
    manifest = {
        **{key: value for key, value in bundle.manifest.items() if key != "members"},
        "artifacts": artifacts,
        "ship": [row for row in rows if row["artifact"] in (None, *chosen)],
    }
    return Contents(manifest, {name: bundle.read(name) for name in manifest_file.named(manifest)})


def _bundled(run: Path) -> Done:
    """The bundle stage of a run, once it is known to match the files there."""
    directory = RunDirectory(run)
    if not (run / "recipe.json").is_file():
        raise InputError(f"{run}: neither a run directory (it has no recipe.json) nor a manifest")
    mark = directory.folder("export") / UNVERIFIED
    if mark.is_file():
        reason = mark.read_text(encoding="utf-8").strip().partition("\n")[0]
        raise Shortfall(f"{run}: files that failed verification are not packed: {reason}")
    done = directory.find("bundle")
    if done is None:
        raise InputError(
            f"{run}: no verified files to pack: edgekit compress {run} (its recipe needs [export] and [verify])"
        )
    for name in ("export", "verify"):
        now = directory.find(name)
        if now is not None and now.digest != done.inputs.get(name):
            raise InputError(f"{run}: the files have changed since they were bundled: edgekit compress {run}")
    return done


def _verdicts(run: Path, done: Done) -> list[dict[str, Any]]:
    """The verdicts of the report on exactly these files; empty if there is no such report."""
    report = RunDirectory(run).find("report")
    if report is None or report.inputs.get("stages", {}).get("bundle") != done.digest:
        return []
    rows = json.loads((report.path / "verdict.json").read_text(encoding="utf-8"))
    return [{key: row[key] for key in ("device", "artifact", "engine", "threads", "kind", "reason")} for row in rows]


def _of_device(rows: Sequence[dict[str, Any]], device: str, run: Path) -> dict[str, Any]:
    verdicts = {str(row["device"]): row for row in rows}
    if device not in verdicts:
        known = f" (there is one for: {', '.join(verdicts)})" if verdicts else ""
        raise InputError(f'{run}: no verdict on "{device}"{known}: edgekit report {run} --device {device}')
    if verdicts[device]["artifact"] is None:
        raise Shortfall(f"{run}: nothing to pack for {device}: {verdicts[device]['reason']}")
    return verdicts[device]


# From a manifest -----------------------------------------------------------------------------------


def from_manifest(path: Path) -> Contents:
    """A hand-written manifest, and the files beside it that it names.

    Raises:
        InputError: the manifest does not follow its schema, a file is missing, or a model needs something outside it.
    """
    try:
        bundle = open_bundle(str(path), verify="hash")
        bundle.check_models()
        manifest = {key: value for key, value in bundle.manifest.items() if key not in ("members", "$schema")}
        return Contents(manifest, {name: bundle.read(name) for name in manifest_file.named(manifest)})
    except (OSError, RuntimeFault) as fault:
        raise InputError(str(fault)) from fault
