"""Measure every exported file on every device, and run some test images there.

The fastest files on a device are also timed operator by operator. Each result is stored separately, so that a later
call measures only what is missing or has changed.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.config.recipe import ProfileSection, VerifySection
from edgekit.data import index_file
from edgekit.device.file import TORCH, Device
from edgekit.disk import json_file
from edgekit.errors import InputError, Shortfall
from edgekit.measurements import Failure, Profile
from edgekit.pipeline.port import Skip
from edgekit.pipeline.provenance import of_formats, versions
from edgekit.pipeline.state import Run
from edgekit.runtime import machine
from edgekit.scores import Accuracy
from edgekit.types import Split

if TYPE_CHECKING:
    from edgekit.profile.job import GoldenImages

RESUMABLE = True
RAW = "raw"
ACCURACY = "raw-accuracy"
OPERATORS = "raw-operators"


def section(run: Run) -> ProfileSection | Skip | None:
    """The [profile] section, if any; skipped if there is nothing to measure, or no device."""
    if "export" not in run.done:
        return Skip("there are no exported files")
    if not run.job.devices:
        return Skip("the recipe has no [profile] section and no --device was given")
    return run.recipe.profile


def inputs(run: Run, section: ProfileSection | None) -> dict[str, Any]:
    """The devices, this machine, the files and the engines; also how often a device was lost, so that it is retried."""
    from edgekit.profile import protocol

    facts, golden = machine.facts(), _golden(run)
    before = run.directory.find("profile")
    return {
        "devices": {name: device.model_dump(exclude={"facts", "limits"}) for name, device in run.job.devices.items()},
        "machine": {key: facts[key] for key in ("hostname", "arch", "cpu", "cores")},
        "export": run.digest("export"),
        "versions": versions("onnxruntime", "ai-edge-litert", "tflite-runtime", *of_formats(run.formats)),
        "reference": [run.network.digest, versions("torch", "torchao")] if _compared(run) else None,
        "operators": _explained(section),
        "accuracy": _compared_with(run) if _wanted(run) else None,
        "protocol": protocol.VERSION,
        "golden": golden and golden.key,
        "again": (before.inputs.get("again", 0) if before else 0) + run.job.again,
        "lost": before.inputs.get("lost", 0) + _lost(before.path / "profile.json") if before else 0,
    }


def _compared_with(run: Run) -> list[Any]:
    """What scores on the devices depend on, besides the files: the images, torch's classes and the bound."""
    images = [_wanted(run), run.digest("data"), run.recipe.data.seed]
    return [*images, run.network.digest, _least(run), versions("torch", "numpy", "pillow")]


def _least(run: Run) -> float:
    """Share of images whose top-1 class must be that on this machine."""
    return (run.recipe.verify or VerifySection()).agreement


def build(run: Run, section: ProfileSection | None, work: Path) -> None:
    """Write ``profile.json``, and ``accuracy.json`` of the devices other than this machine."""
    from edgekit.profile.run import profile
    from edgekit.verdict.rule import uncertain

    for name in (RAW, ACCURACY, OPERATORS):
        before = run.directory.folder("profile") / name
        if before.is_dir() and not (work / name).exists() and not run.job.again:
            shutil.copytree(before, work / name)
    measured = profile(
        run.artifacts,
        run.done["export"].path,
        run.job.devices,
        run.console,
        work / RAW,
        run.bundle,
        reference=_reference(run, work) if _compared(run) else None,
        doubts=partial(uncertain, run.artifacts),
    )
    rows: list[Accuracy] = []
    if _wanted(run):
        rows, failures = _accuracy(run, {name: run.job.devices[name] for name in measured.machines}, work / ACCURACY)
        measured = replace(measured, failures=(*measured.failures, *failures))
    if _explained(section):
        from edgekit.profile import hotspots

        profiles, failures = hotspots.find(
            run.artifacts, run.done["export"].path, run.job.devices, measured, run.console, work / OPERATORS
        )
        measured = replace(measured, operators=tuple(profiles), failures=(*measured.failures, *failures))
    json_file.save(work / "accuracy.json", rows)
    json_file.save(work / "profile.json", measured)


def failed(run: Run, trouble: Shortfall) -> None:
    """Nothing to do."""


def after(run: Run) -> None:
    """Nothing to do."""


def remark(run: Run) -> str:
    """Nothing to say."""
    return ""


def _explained(section: ProfileSection | None) -> bool:
    """Whether operators are timed, too."""
    return section is None or section.operators


def _compared(run: Run) -> bool:
    """Whether a device also runs the float network in PyTorch."""
    return any(TORCH in device.run.engines for device in run.job.devices.values())


def _reference(run: Run, work: Path) -> Path:
    """The file for PyTorch: not an output of the export stage, and never in a bundle."""
    from edgekit.profile import torch_reference

    module, checkpoint = run.load(run.network)
    path = work / torch_reference.FILE
    torch_reference.write(module, checkpoint.input.shape, path)
    return path


def _golden(run: Run) -> GoldenImages | None:
    """What is run end to end on devices."""
    from edgekit.profile.job import GoldenImages

    return GoldenImages.of(run.bundle) if run.bundle else None


def _wanted(run: Run) -> int:
    """Number of images to run on devices; 0 if verification has covered everything."""
    section = run.recipe.profile
    elsewhere = any(
        device.reach.by != "local" or set(device.run.providers) - {TORCH} for device in run.job.devices.values()
    )
    return section.accuracy_images if section and elsewhere else 0


def _accuracy(run: Run, devices: Mapping[str, Device], keep: Path) -> tuple[list[Accuracy], list[Failure]]:
    import numpy as np
    import torch

    from edgekit.data.dataset import ImageSet
    from edgekit.data.transforms import array, fit, open_image
    from edgekit.graph.logits import classes
    from edgekit.profile import accuracy

    module, checkpoint = run.load(run.network)
    index, root = index_file.load_rooted(run.done["data"].path)
    split: Split = "test" if index.split("test") else "val"
    every = ImageSet(index, root, split, checkpoint.input)
    places = accuracy.choose(len(every), _wanted(run), run.recipe.data.seed)
    if not places:
        return [], []
    with torch.no_grad():
        exact = [int(classes(module(every[place][0].unsqueeze(0)))) for place in places]
    chosen = [every.samples[place] for place in places]
    spec = checkpoint.input
    images = accuracy.TestImages(
        split,
        np.stack([array(fit(open_image(root / sample.path, spec), spec)) for sample in chosen]),
        np.array([sample.label for sample in chosen]),
        np.array(exact),
        spec,
    )
    tidy = set(devices) == set(run.job.devices)
    least = _least(run)
    return accuracy.score(run.artifacts, run.done["export"].path, devices, images, least, run.console, keep, tidy)


def _lost(file: Path) -> bool:
    """Whether a device was not reached or was lost during the run."""
    try:
        return any(failure.lost for failure in json_file.load(file, Profile).failures)
    except InputError:
        return False
