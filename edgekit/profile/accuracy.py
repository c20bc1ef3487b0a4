"""Accuracy on the devices: the same test images run through every file, on the device and on this machine."""

from __future__ import annotations

import base64
import hashlib
import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.console import Console
from edgekit.device.file import Device, format_of
from edgekit.errors import Shortfall
from edgekit.graph.logits import classes
from edgekit.measurements import Failure
from edgekit.profile import _prefixes
from edgekit.profile._fleet import Fleet
from edgekit.profile._result_cache import Keep
from edgekit.reach.port import Reach, way
from edgekit.reach.ways import local
from edgekit.reach.worker import WorkerFault
from edgekit.runtime import engine_menu
from edgekit.scores import Accuracy
from edgekit.types import HOST_ENGINES, ONE_STEP, Artifact, InputSpec, Split

TIMEOUT = 600.0
"""Seconds for all images of one file, plus one second per image."""
TRACED = 4
"""Images that parts of a file run on, to find the layer where two machines diverge."""
SLACK = 1
"""Images whose top-1 class may differ from the one here, however few images there are."""


@dataclass(frozen=True)
class TestImages:
    """The images that every device runs on."""

    __test__ = False  # not a test, whatever pytest makes of the name

    split: Split
    pixels: npt.NDArray[np.uint8]
    """[n, height, width, channels], resized and cropped."""
    labels: npt.NDArray[np.int64]
    """[n]"""
    exact: npt.NDArray[np.int64]
    """[n]: top-1 classes of torch fp32."""
    spec: InputSpec


@dataclass(frozen=True)
class _Answer:
    version: str
    outputs: npt.NDArray[Any]
    """[n, classes], in the file's own dtype."""


@dataclass(frozen=True)
class _Task:
    """A file to be run in one engine of one device."""

    file: Artifact
    engine: str
    device: str
    threads: int = 1

    @property
    def artifact(self) -> str:
        return self.file.id


def choose(count: int, wanted: int, seed: int) -> list[int]:
    """Which images to run: `wanted` of `count`, drawn by `seed`, in ascending order."""
    return sorted(random.Random(f"accuracy/{seed}").sample(range(count), min(wanted, count)))  # noqa: S311


def score(
    artifacts: Sequence[Artifact],
    folder: Path,
    devices: Mapping[str, Device],
    images: TestImages,
    agreement: float,
    console: Console,
    keep: Path | None = None,
    tidy: bool = True,
) -> tuple[list[Accuracy], list[Failure]]:
    """Run the images on all devices in parallel, and compare with the same file on this machine.

    Args:
        artifacts: what to run, with every engine of a device that supports its format.
        folder: where the artifacts' files are.
        devices: by their name in results.
        images: what to run on.
        agreement: least share of images with the same top-1 class as here; `SLACK` of them may always differ.
        console: progress.
        keep: folder of results, as in `edgekit.profile.run.profile`.
        tidy: remove kept results of other devices.

    Returns:
        One row per device, file and engine, in that order: `agreement` is with torch fp32, `agreement_reference`,
        `max_difference`, `max_steps` and `within_one_step` are with the same file here. And what could not be run.
    """
    tasks = {name: _tasks(name, artifacts, device) for name, device in devices.items()}
    kept, fleet = Keep(keep, __name__), Fleet()
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "pixels.npy"
        np.save(file, images.pixels)
        here = {each.id: _here(each, folder, file, images) for each in artifacts if _used(each, tasks)}

        def one(device: Device, task: _Task, facts: Mapping[str, Any]) -> Accuracy:
            name, artifact, engine = task.device, task.file, task.engine
            model = (folder / artifact.path).read_bytes()
            known = [hashlib.sha256(data).hexdigest() for data in (model, file.read_bytes())]
            run = [engine, facts.get("engines", {}).get(engine), device.run.provider(engine), agreement]
            key = {
                "accuracy": known,
                "artifact": asdict(artifact),
                "images": [images.split, images.labels.tolist(), images.exact.tolist(), asdict(images.spec)],
                "run": run,
                "device": [name, device.reach.model_dump(exclude={"timeout"})],
                "cpu": [facts.get("hostname"), facts.get("cpu")],
            }
            row = kept.find(key, Accuracy)
            if row is None:
                there = _ask(fleet, _reach(name, device), device, artifact, engine, folder, file, images)
                row = _compare(artifact, engine, name, there, here[artifact.id], images, agreement)
                exact = engine_menu.bound(engine) is None
                if not row.passed or (exact and artifact.precision == "int8" and row.max_difference):
                    worst = _worst(there, here[artifact.id], images)
                    row = replace(row, diverges=_diverges(fleet, name, device, artifact, engine, folder, worst))
                kept.add(key, row)
            return row

        rows, failures = fleet.rows("accuracy", devices, tasks, one, console)
    if tidy:
        kept.tidy()
    return rows, failures


def _tasks(name: str, artifacts: Sequence[Artifact], device: Device) -> list[_Task]:
    """Files and engines to run on a device, without those that verification ran: this machine's usual engines."""
    verified = {*HOST_ENGINES.values(), *(name for name in engine_menu.engines() if engine_menu.bound(name))}
    usual = verified - set(device.run.providers) if device.reach.by == "local" else set()
    return [
        _Task(artifact, engine, name)
        for artifact in artifacts
        for engine in device.run.engines
        if artifact.format == format_of(engine) and engine not in usual
    ]


def _used(artifact: Artifact, tasks: Mapping[str, Sequence[_Task]]) -> bool:
    return any(artifact is task.file for row in tasks.values() for task in row)


def _reach(name: str, device: Device) -> Reach:
    return way(device.reach.by, f"{name}: reach.by")


def _here(artifact: Artifact, folder: Path, pixels: Path, images: TestImages) -> _Answer:
    device = Device.model_validate({"name": "host", "run": {"engines": [HOST_ENGINES[artifact.format]]}})
    try:
        return _ask(Fleet(), local, device, artifact, HOST_ENGINES[artifact.format], folder, pixels, images)
    except WorkerFault as fault:
        raise Shortfall(f"accuracy: {artifact.id} on this machine: {fault}") from None


def _ask(
    fleet: Fleet,
    reach: Reach,
    device: Device,
    artifact: Artifact,
    engine: str,
    folder: Path,
    pixels: Path,
    images: TestImages,
) -> _Answer:
    """Outputs of one file on one engine of a device."""
    request = {
        "model": reach.send(folder / artifact.path, device),
        "engine": engine,
        "threads": 1,
        "provider": device.run.provider(engine),
        "pixels": reach.send(pixels, device),
        "layout": artifact.input.layout,
        "scale": artifact.input.scale,
        "zero_point": artifact.input.zero_point,
        "mean": images.spec.mean,
        "std": images.spec.std,
    }
    with fleet.worker(reach, ["-m", "edgekit.runtime.outputs"], device) as worker:
        return _decoded(worker.ask(request, TIMEOUT + len(images.pixels)), len(images.pixels))


def _worst(there: _Answer, here: _Answer, images: TestImages) -> TestImages:
    """The images whose outputs differ most."""
    gap = np.nan_to_num(np.abs(there.outputs.astype(np.float64) - here.outputs), nan=np.inf).max(1)
    return replace(images, pixels=images.pixels[np.argsort(-gap, kind="stable")[:TRACED]])


def _diverges(
    fleet: Fleet, name: str, device: Device, artifact: Artifact, engine: str, folder: Path, images: TestImages
) -> str:
    """The first layer whose outputs on a device differ from this machine's (`edgekit.profile._prefixes`).

    Raises:
        WorkerFault: the device was lost.
    """
    with tempfile.TemporaryDirectory() as scratch:
        pixels = Path(scratch) / "pixels.npy"
        np.save(pixels, images.pixels)

        def there(part: Artifact, where: Path) -> npt.NDArray[Any]:
            return _ask(fleet, _reach(name, device), device, part, engine, where, pixels, images).outputs

        def here(part: Artifact, where: Path) -> npt.NDArray[Any]:
            try:
                return _here(part, where, pixels, images).outputs
            except Shortfall as trouble:
                raise WorkerFault(str(trouble)) from None

        try:
            return _prefixes.first(artifact, folder, there, here)
        except WorkerFault as fault:
            if fault.lost:
                raise
            return f"not found: a part of the file cannot be run: {fault}"


def _decoded(answer: Mapping[str, Any], count: int) -> _Answer:
    try:
        values = np.frombuffer(base64.b64decode(answer["outputs"], validate=True), np.dtype(answer["dtype"]))
        outputs = values.reshape(answer["shape"])
        if outputs.ndim != 2 or len(outputs) != count or outputs.dtype.kind not in "fiu":
            raise ValueError(f"{outputs.dtype} {list(outputs.shape)}")
        return _Answer(str(answer["version"]), outputs)
    except (KeyError, TypeError, ValueError) as error:
        raise WorkerFault(f"the device returned no valid outputs for {count} images ({error})") from None


def _compare(
    artifact: Artifact, engine: str, name: str, there: _Answer, here: _Answer, images: TestImages, least: float
) -> Accuracy:
    step = artifact.output.scale if artifact.precision == "int8" else None
    real = [_real(answer.outputs, artifact) for answer in (there, here)]
    if real[0].shape != real[1].shape:
        raise WorkerFault(f"it gives {real[0].shape[1]} outputs, this machine {real[1].shape[1]}")
    difference = np.abs(real[0] - real[1])
    predicted, wanted = classes(real[0]), classes(real[1])
    same = float((predicted == wanted).mean())
    steps = difference / step if step else None
    problem = ""
    bound = engine_menu.bound(engine)
    if not np.isfinite(real[0]).all():
        problem = "NaN or infinite outputs"
    elif bound is not None and artifact.precision == "int8":
        problem = bound.missed(engine, same, None if steps is None else float(steps.max()), len(wanted))
    elif (predicted != wanted).sum() > max(SLACK, (1 - least) * len(wanted)):
        problem = f"{same:.2%} top-1 agreement with the same file on the host; {least:.2%} is required"
    return Accuracy(
        artifact=artifact.id,
        engine=engine,
        engine_version=there.version,
        device=name,
        split=images.split,
        images=len(wanted),
        top1=float((predicted == images.labels).mean()),
        agreement=float((predicted == images.exact).mean()),
        agreement_reference=same,
        max_difference=float(difference.max()),
        max_steps=None if steps is None else float(steps.max()),
        within_one_step=None if steps is None else float((steps < ONE_STEP).mean()),
        passed=not problem,
        problem=problem,
    )


def _real(outputs: npt.NDArray[Any], artifact: Artifact) -> npt.NDArray[np.float64]:
    """Outputs as real values: integers are dequantized."""
    values = outputs.astype(np.float64)
    scale, zero = artifact.output.scale, artifact.output.zero_point
    return (values - (zero or 0)) * scale if outputs.dtype.kind in "iu" and scale else values
