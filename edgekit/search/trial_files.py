"""Short timings of files against each other, to choose between them before the profile stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.fx import GraphModule

from edgekit.config.recipe import QuantizeSection
from edgekit.console import Console
from edgekit.device.file import Device, RunSection, format_of
from edgekit.errors import Unreached
from edgekit.export.port import exporter
from edgekit.measurements import Machine, Timing
from edgekit.profile.run import profile
from edgekit.quantize import ptq
from edgekit.reach.port import way
from edgekit.runtime import engine_menu
from edgekit.types import SUFFIXES, Artifact, Size

SECONDS = 0.6
"""Measured seconds per file and engine."""
ROUNDS = 8
WARMUP = 3
FAST = 3.0
"""Percentile of the inferences that nothing disturbed."""


@dataclass(frozen=True)
class TrialFile:
    """An `edgekit.profile.job.ModelFile`."""

    id: str
    format: str
    path: str
    sha256: str = ""


@dataclass(frozen=True)
class Trial:
    """The time of one file in one engine on one device, one thread."""

    file: str
    """The name it was given."""
    device: str
    machine: Machine
    engine: str
    engine_version: str
    ms: float
    """p50 of the quietest round, which other work on the machine disturbs least."""
    fast_ms: float = 0.0
    """3rd percentile of all inferences: it compares files even where every round was disturbed."""


@dataclass(frozen=True)
class Trials:
    """What was measured, and on which devices nothing was."""

    rows: tuple[Trial, ...]
    """In the order device, file, engine."""
    emulated: tuple[str, ...] = ()
    """Devices that run the files, but on which time is not measured."""
    lost: Mapping[str, str] = field(default_factory=dict)
    """Why devices were not reached, one line each, by device name."""

    @property
    def missing(self) -> str:
        """Devices that run the files but were not timed, in words; empty if there are none."""
        parts = [f"{name} is emulated" for name in self.emulated]
        return "; ".join([*parts, *self.lost.values()])


def time_files(
    files: Mapping[str, Path], devices: Mapping[str, Device], console: Console, seconds: float = SECONDS
) -> Trials:
    """Measure files in turns (`edgekit.profile.run`), one thread, with every engine of each device that runs them.

    Args:
        files: ``.onnx``, ``.tflite`` and ``.pte`` files, by any name.
        devices: where to measure; those that run none of the formats, are emulated or not reached are left out.
        console: progress.
        seconds: measured time of each file in each engine.

    Raises:
        InputError: a device file states a different architecture than the machine has.
        Shortfall: nothing at all could be measured on a device that was reached and has an engine for the files.
    """
    formats = {suffix: form for form, suffix in SUFFIXES.items()}
    trials = [TrialFile(name, formats[path.suffix], str(path.resolve())) for name, path in files.items()]
    rows: list[Trial] = []
    emulated, lost = [], {}
    for name, device in devices.items():
        engines = engines_for((trial.format for trial in trials), device)
        if not engines:
            continue
        if not is_timed(device):
            emulated.append(name)
            continue
        section = RunSection.model_validate(
            {"engines": engines, "threads": [1], "warmup": WARMUP, "seconds": seconds, "rounds": ROUNDS}
        )
        try:
            measured = profile(trials, Path(), {name: device.model_copy(update={"run": section})}, console)
        except Unreached as trouble:
            lost[name] = str(trouble)
            console.say(f"  not timed there: {trouble}")
            continue
        rows += [_trial(timing, measured.machines[name]) for timing in measured.timings]
    return Trials(tuple(rows), tuple(emulated), lost)


def is_timed(device: Device) -> bool:
    """Whether times are measured there: not on an emulated device."""
    return way(device.reach.by, f"{device.name}: reach.by").KIND == "measured"


def engines_for(formats: Iterable[str], device: Device) -> list[str]:
    """The engines of a device that run any of the formats."""
    wanted = set(formats)
    return [engine for engine in device.run.engines if format_of(engine) in wanted]


def exact(engines: Sequence[str]) -> list[str]:
    """Without engines that round in their own way, unless there are no others: a file may be refused there."""
    return [name for name in engines if not engine_menu.bound(name)] or list(engines)


def _trial(timing: Timing, machine: Machine) -> Trial:
    rounds = np.array_split(timing.samples, min(ROUNDS, len(timing.samples)))
    quietest = min(float(np.median(samples)) for samples in rounds)
    fast = float(np.percentile(timing.samples, FAST))
    return Trial(timing.artifact, timing.device, machine, timing.engine, timing.engine_version, quietest, fast)


def quick_graph(
    module: torch.nn.Module,
    size: Size,
    images: Iterable[torch.Tensor],
    pixels: torch.Tensor,
    section: QuantizeSection,
    rewrites: Sequence[str] | None = None,
) -> GraphModule:
    """The quantized graph that `quick_int8` makes its files from; arguments as there."""
    plain = QuantizeSection(
        activations=section.activations,
        keep_float=section.keep_float,
        float_operators=section.float_operators,
        bias_correction=False,
        sensitivity=False,
    )
    graph: GraphModule = ptq.quantize(module, size, images, pixels, plain, rewrites).program.module()
    return graph


def quick_int8(
    module: torch.nn.Module,
    size: Size,
    images: Iterable[torch.Tensor],
    pixels: torch.Tensor,
    section: QuantizeSection,
    formats: Sequence[str],
    folder: Path,
    rewrites: Sequence[str] | None = None,
) -> dict[str, Artifact]:
    """Temporary int8 files for timing: plain min-max ranges of a few images, no corrections.

    They run the same kernels as the final files, and the time of kernels does not depend on ranges.

    Args:
        module: the float network, in eval mode.
        size: shape of an image.
        images: float32 tensors of that shape, preprocessed as the network expects; two are enough.
        pixels: every value that the input can take, as `edgekit.data.transforms.levels` gives them.
        section: the recipe's choices; those that decide which kernels run are used.
        formats: which files to write.
        folder: where to write ``model-int8`` in each format.
        rewrites: rewrites of the graph to apply where they match; None is all of them.

    Returns:
        What was written, by format.

    Raises:
        Shortfall: a converter refuses the network.
    """
    graph = quick_graph(module, size, images, pixels, section, rewrites)
    folder.mkdir(parents=True, exist_ok=True)
    return {
        name: exporter(name).export(graph, size, "int8", folder, keep_float=section.may_be_float) for name in formats
    }
