"""Pack all verified files into the one file that devices run."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgekit import __version__, checkpoint_file
from edgekit.config.recipe import VerifySection
from edgekit.errors import InputError, Shortfall
from edgekit.pipeline.port import Skip
from edgekit.pipeline.provenance import git_commit
from edgekit.pipeline.state import Run
from edgekit.runtime import engine_menu
from edgekit.scores import Accuracy
from edgekit.types import TORCH_FP32, Artifact, Checkpoint, InputSpec, Quantization

RESUMABLE = False


def section(run: Run) -> VerifySection | Skip:
    """The [verify] section; skipped if no file was verified, as only verified files may be shipped."""
    if "export" not in run.done:
        return Skip("there are no exported files")
    verify = run.recipe.verify
    return verify if verify and "verify" in run.done else Skip("the exported files were not verified")


def inputs(run: Run, section: VerifySection) -> dict[str, Any]:
    """The recipe, the files, their scores and their provenance."""
    return {
        "recipe": _recipe(run),
        "data": run.digest("data"),
        "network": run.network.digest,
        "quantize": run.digest("quantize"),
        "export": run.digest("export"),
        "verify": run.digest("verify"),
        "packages": run.packages,
        "git_commit": git_commit(run.job.base),
    }


def build(run: Run, section: VerifySection, work: Path) -> None:
    """Write ``<name>.edgekit``."""
    from edgekit.deploy import bundle

    name = _name(run)
    manifest, members = _contents(run, section, name)
    bundle.write(work / f"{name}.edgekit", bundle.Contents(manifest, members), replay=True)


def failed(run: Run, trouble: Shortfall) -> None:
    """Nothing to do."""


def after(run: Run) -> None:
    """Nothing to do."""


def remark(run: Run) -> str:
    """Nothing to say."""
    return ""


def _recipe(run: Run) -> dict[str, Any]:
    """The recipe without its devices, which do not change the files."""
    return run.recipe.model_dump(mode="json", exclude={"profile", "fit", "sweep", "tune"})


def _name(run: Run) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", run.recipe.name).lstrip("._-")[:100] or "bundle"
    if name != run.recipe.name:
        run.console.say(f'bundle: named "{name}", as names are limited to letters, digits and ._-')
    return name


def _contents(run: Run, section: VerifySection, name: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest without hashes, and all other members."""
    from edgekit.data import index_file
    from edgekit.deploy import golden_vectors

    checkpoint = checkpoint_file.load(run.network.path)
    index, root = index_file.load_rooted(run.done["data"].path)
    scores: list[Accuracy] = run.read("verify", "accuracy.json", list[Accuracy])
    rows = {artifact.id: [row for row in scores if row.artifact == artifact.id] for artifact in run.artifacts}
    exact = {name: [row for row in each if engine_menu.bound(row.engine) is None] for name, each in rows.items()}
    artifacts = [each for each in run.artifacts if exact[each.id] and all(row.passed for row in exact[each.id])]
    samples = golden_vectors.choose(index.split(scores[0].split), run.recipe.data.seed)
    golden = golden_vectors.inputs(samples, root, checkpoint.input)
    members = {"labels.txt": _labels(checkpoint.labels), "golden/inputs.npy": golden_vectors.npy(golden.pixels)}
    members |= golden.images
    entries = []
    folder = run.done["export"].path
    for artifact in sorted(artifacts, key=lambda artifact: artifact.precision != "int8"):  # int8 first
        data = (folder / artifact.path).read_bytes()
        if hashlib.sha256(data).hexdigest() != artifact.sha256:
            raise Shortfall(f"bundle: {folder / artifact.path}: changed since it was verified; run the command again")
        engine, outputs = golden_vectors.answers(golden, checkpoint.input, artifact, folder)
        members[f"models/{artifact.path}"] = data
        members[f"golden/{artifact.id}.npy"] = golden_vectors.npy(outputs)
        vectors: dict[str, Any] = {
            "outputs": f"golden/{artifact.id}.npy",
            "engine": engine,
            "tolerance": golden_vectors.tolerance(
                artifact, exact[artifact.id], outputs, *_grid(run, section, artifact)
            ),
        }
        if artifact.format == "tflite" and artifact.precision == "int8":
            vectors["tolerance_builtin"] = max(golden_vectors.BUILTIN, vectors["tolerance"])
        entries.append(_entry(artifact, rows[artifact.id], vectors))
    manifest = {
        "format": "edgekit-bundle",
        "version": "1.0",
        "name": name,
        "task": "classification",
        "labels": "labels.txt",
        "preprocessing": _preprocessing(checkpoint.input),
        "postprocessing": {"activation": "softmax" if checkpoint.model.num_classes > 1 else "sigmoid"},
        "artifacts": entries,
        "golden": {"inputs": "golden/inputs.npy", "images": list(golden.images)},
        "ship": [],
        "recipe": _recipe(run),
        "provenance": _provenance(run, checkpoint, scores),
    }
    manifest["version"] = _version(manifest)
    if run.recipe.description:
        manifest["description"] = run.recipe.description
    return manifest, members


def _labels(labels: tuple[str, ...]) -> bytes:
    for label in labels:
        if label.splitlines() != [label]:
            raise InputError(f"bundle: the class name {label!r} is empty or has several lines; rename it")
    return "".join(f"{label}\n" for label in labels).encode()


def _preprocessing(spec: InputSpec) -> dict[str, Any]:
    from edgekit.data.transforms import preprocessing

    how = preprocessing(spec)
    return {
        "kind": "image",
        "color": how.color,
        "height": how.height,
        "width": how.width,
        "resize": how.resize,
        "crop": how.crop,
        "interpolation": how.interpolation,
        "mean": list(how.mean),
        "std": list(how.std),
        **({"pad": how.pad} if how.resize == "letterbox" else {}),
    }


def _version(manifest: dict[str, Any]) -> str:
    """The oldest that describes this manifest, for the sake of older runtimes."""
    if any(artifact["format"] == "executorch" for artifact in manifest["artifacts"]):
        return "1.2"
    pixels = manifest["preprocessing"]
    binary = manifest["postprocessing"]["activation"] == "sigmoid"
    return "1.1" if binary or pixels["resize"] == "letterbox" or pixels["color"] in ("grey_alpha", "rgba") else "1.0"


def _grid(run: Run, section: VerifySection, artifact: Artifact) -> tuple[float | None, float]:
    """Real value of one step of an int8 file's output, and the tolerance that verification allowed a float file."""
    from edgekit.export import sources
    from edgekit.graph import exported_program

    bound, _ = sources.BOUNDS.get(artifact.precision, (section.tolerance, None))
    if artifact.precision != "int8" or artifact.output.scale:
        return artifact.output.scale, bound
    return exported_program.output_scale(exported_program.load(run.done["quantize"].path / "quantized.pt2")), bound


def _entry(artifact: Artifact, rows: list[Accuracy], golden: dict[str, Any]) -> dict[str, Any]:
    keys = ("engine", "engine_version", "device", "split", "images", "top1", "agreement", "passed")
    return {
        "id": artifact.id,
        "format": artifact.format,
        "precision": artifact.precision,
        "file": f"models/{artifact.path}",
        "input": asdict(artifact.input),
        "output": asdict(artifact.output),
        "float_ops": artifact.float_ops,
        "lowered": list(artifact.lowered),
        "devices": [],
        "accuracy": [{key: getattr(row, key) for key in keys} for row in rows],
        "golden": golden,
    }


def _provenance(run: Run, checkpoint: Checkpoint, scores: list[Accuracy]) -> dict[str, Any]:
    """Hashes cover contents only, so that a run from scratch gives the same ones."""
    from edgekit.data import index_file

    samples = [asdict(sample) for sample in index_file.load(run.done["data"].path).samples]
    hashes = {
        "data": hashlib.sha256(json.dumps(samples, sort_keys=True).encode()).hexdigest(),
        "weights": hashlib.sha256((run.network.path / checkpoint.weights).read_bytes()).hexdigest(),
    }
    quantization = run.read("quantize", "quantization.json", Quantization)
    if quantization:
        hashes["calibration images"] = quantization.calibration_sha256
    keys = ("engine", "engine_version", "device", "split", "images", "top1")
    reference = (row for row in scores if row.artifact == TORCH_FP32)
    return {
        "reference": next(({key: getattr(row, key) for key in keys} for row in reference), None),
        "edgekit": __version__,
        "packages": run.packages,
        "seeds": run.seeds,
        "hashes": hashes,
        "git_commit": git_commit(run.job.base),
    }
