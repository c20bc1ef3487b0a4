"""Choose the rewrites: none that makes a file slower on the devices of the run, measured with and without each.

A rewrite of the graph (`SCOPE` "graph") serves every format and is decided before the network is quantized; one of a
file ("onnx", "tflite") is decided for each file separately. A rewrite without which operators of an int8 file would
compute in float is needed, so it is not timed.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from torch.fx import GraphModule
from torchao.quantization.pt2e import PerChannelMinMaxObserver

from edgekit import choices
from edgekit.config.recipe import QuantizeSection
from edgekit.console import Console
from edgekit.device.file import Device
from edgekit.errors import Shortfall
from edgekit.export.formats import onnx as onnx_file
from edgekit.export.formats import tflite as tflite_file
from edgekit.export.port import Exporter
from edgekit.graph.exported_program import trace
from edgekit.graph.ops import BATCH_NORM, CLAMPS, MOVING
from edgekit.lower.port import graph_rewrite, rewrite
from edgekit.lower.reparameterize import joined
from edgekit.measurements import NOISE
from edgekit.quantize import ptq
from edgekit.quantize.annotate import Int8Quantizer
from edgekit.quantize.histogram import Histogram
from edgekit.search.trial_files import Trials, engines_for, quick_int8, time_files
from edgekit.types import INTEGERS, Artifact, Rewrite, Size, artifact_id

Effect = Mapping[str, tuple[float, float]]
"""Milliseconds without and with a rewrite, by engine."""


def names(scope: str) -> list[str]:
    """The rewrites of one scope."""
    menu = choices.names("edgekit.lower.rewrites")
    return [name for name in menu if scope == rewrite(name).SCOPE]


def decide(name: str, scope: str, effects: Mapping[str, Effect], setup: str = "", artifact: str = "") -> Rewrite:
    """Leave a rewrite out if it costs time; it stays if times do not differ or were not measured.

    Args:
        name: the rewrite's name.
        scope: its scope.
        effects: what was measured, by device. One file serves all devices, so the first one decides, by the geometric
            mean over its engines.
        setup: how it was measured, in words.
        artifact: the file it was measured for, if the choice is for that file alone.
    """
    gains = {
        device: float(np.exp(np.mean([np.log(before / after) for before, after in effect.values()])))
        for device, effect in effects.items()
    }
    (first, gain), *others = gains.items()
    applied = gain > 1 / (1 + NOISE)
    reason = f"{'' if applied else 'left out: '}{gain:.2f}x as fast with it on {first}"
    if applied and gain < 1 + NOISE:
        reason += ", which may be noise, so it stays"
    if others:
        rest = ", ".join(f"{gain:.2f}x on {device}" for device, gain in others)
        reason += f"; one file serves all devices and the first decides ({rest})"
    ms = {
        engine if device == first else f"{engine} on {device}": pair
        for device, effect in effects.items()
        for engine, pair in effect.items()
    }
    return Rewrite(name, scope, applied, f"{reason} ({setup})" if setup else reason, first, ms, artifact)


def choose_graph(
    module: torch.nn.Module,
    size: Size,
    images: Iterable[torch.Tensor],
    pixels: torch.Tensor,
    section: QuantizeSection,
    formats: Sequence[str],
    devices: Mapping[str, Device],
    scratch: Path,
    console: Console,
) -> list[Rewrite]:
    """Decide the rewrites of the graph: each with an effect is timed, in every format, against the graph without it.

    Args:
        module: the float network, in eval mode.
        size: shape of an image.
        images: see `quick_int8`, also for `pixels` and `section`.
        pixels: see `quick_int8`.
        section: see `quick_int8`.
        formats: the recipe's.
        devices: the run's, by name.
        scratch: an empty folder for files that are thrown away.
        console: progress.

    Returns:
        A row for each rewrite of scope "graph".

    Raises:
        Shortfall: a converter refuses the network, or nothing can be measured on a device that was reached.
    """
    with torch.no_grad():
        graph: GraphModule = trace(joined(module, size), size).module()
        every = names("graph")
        lowered, counts = _lowered(graph, every)
        left = _float_ops(graph, section, every)
        rows, timed = [], []
        for name in every:
            if not counts[name]:
                rows.append(Rewrite(name, "graph", False, "not found in this network"))
            elif why := graph_rewrite(name).NEEDED:
                rows.append(Rewrite(name, "graph", True, f"needed: without it {why}"))
            elif "onnx" in formats and (more := max(0, _float_ops(graph, section, set(every) - {name}) - left)):
                reason = f"needed: without it {_operators(more)} of onnx-int8 would compute in float"
                rows.append(Rewrite(name, "graph", True, reason))
            elif not graph_rewrite(name).matters(lowered):
                rows.append(Rewrite(name, "graph", True, "changes no kernel of this network, so it was not timed"))
            else:
                timed.append(name)

    def files(label: str, form: str, rewrites: Sequence[str]) -> Artifact:
        return quick_int8(module, size, images, pixels, section, [form], scratch / label, rewrites)[form]

    whole: dict[str, Artifact] = {}
    lost: dict[str, str] = {}
    for name in console.each("with and without a rewrite:", timed):
        paths: dict[str, Path] = {}
        for form in sorted(formats, reverse=True):  # TFLite first: its converter needs rewrites most
            try:
                bare = files(f"without-{name}", form, [other for other in every if other != name])
            except Shortfall as refusal:
                rows.append(Rewrite(name, "graph", True, f"needed: without it, {refusal}"))
                break
            if form not in whole:
                whole[form] = files("with", form, every)
            if more := max(0, bare.float_ops - whole[form].float_ops):
                reason = f"needed: without it {_operators(more)} of {bare.id} would compute in float"
                rows.append(Rewrite(name, "graph", True, reason))
                break
            paths[f"without {form}"] = scratch / f"without-{name}" / bare.path
            paths[f"with {form}"] = scratch / "with" / whole[form].path
        else:
            trials = time_files(paths, devices, console)
            lost |= trials.lost
            devices = {name: device for name, device in devices.items() if name not in lost}  # not asked again
            trials = replace(trials, lost=lost)
            rows.append(_timed(name, "graph", trials, {form: (f"without {form}", f"with {form}") for form in formats}))
    return sorted(rows, key=lambda row: row.name)


def choose_file(
    exporter: Exporter,
    data: bytes,
    form: str,
    precision: str,
    devices: Mapping[str, Device],
    scratch: Path,
    console: Console,
) -> list[Rewrite]:
    """Decide the rewrites of one converted file: each that matches is timed against the file without it.

    Args:
        exporter: the module of ``edgekit/export/formats`` that made it.
        data: the file before any rewrite (``exporter.convert``).
        form: its format.
        precision: its precision.
        devices: the run's, by name.
        scratch: an empty folder for files that are thrown away.
        console: progress.

    Returns:
        A row for each rewrite that matches.

    Raises:
        Shortfall: nothing can be measured on a device that was reached.
    """
    artifact = artifact_id(form, precision)
    data_with, applied = exporter.lowered(data)
    if not any(engines_for([form], device) for device in devices.values()):
        reason = f"not measured: no device runs {form} files"
        return [Rewrite(name, form, True, reason, artifact=artifact) for name in applied]
    files = {"with": _write(scratch / f"with.{form}", data_with)}
    rows = []
    for name in applied:
        bare, _ = exporter.lowered(data, [other for other in applied if other != name])
        if precision in INTEGERS and (more := max(0, float_ops(form, bare) - float_ops(form, data_with))):
            reason = f"needed: without it {_operators(more)} would compute in float"
            rows.append(Rewrite(name, form, True, reason, artifact=artifact))
        else:
            files[name] = _write(scratch / f"{name}.{form}", bare)
    if len(files) > 1:
        trials = time_files(files, devices, console)
        rows += [_timed(name, form, trials, {form: (name, "with")}, artifact) for name in files if name != "with"]
    return sorted(rows, key=lambda row: row.name)


def _timed(name: str, scope: str, trials: Trials, pairs: Mapping[str, tuple[str, str]], artifact: str = "") -> Rewrite:
    """A row from the trials of the files without and with the rewrite, by format."""
    measured = {(trial.device, trial.engine, trial.file): trial for trial in trials.rows}
    lost = bool(trials.lost)
    effects: dict[str, dict[str, tuple[float, float]]] = {}
    setups = []
    for device, engine, file in measured:
        for bare, whole in pairs.values():
            if file == bare and (device, engine, whole) in measured:
                before, after = measured[device, engine, bare], measured[device, engine, whole]
                effects.setdefault(device, {})[engine] = (before.ms, after.ms)
                setups.append(f"{engine} {before.engine_version} on {before.machine.cpu}")
    if not effects:
        if any(file == bare for *_, file in measured for bare, _ in pairs.values()):
            return Rewrite(name, scope, False, "left out: no engine runs the file with it", artifact=artifact)
        why = (not measured and trials.missing) or "no engine runs the file without it"
        return Rewrite(name, scope, True, f"not measured: {why}", artifact=artifact, lost=lost)
    setup = f"measured: {', '.join(dict.fromkeys(setups))}, 1 thread"
    if lost:
        setup += f"; not reached: {'; '.join(trials.lost.values())}"
    return replace(decide(name, scope, effects, setup, artifact), lost=lost)


def _lowered(graph: GraphModule, rewrites: Collection[str]) -> tuple[GraphModule, dict[str, int]]:
    """A copy of a float graph with rewrites applied, and how often each matched."""
    graph = copy.deepcopy(graph)
    chosen = [graph_rewrite(name) for name in rewrites]
    counts = {each.NAME: each.apply(graph) for each in ptq.FLOAT_REWRITES if each in chosen}
    return graph, counts | {each.NAME: each.matches(graph) for each in chosen if each not in ptq.FLOAT_REWRITES}


def _float_ops(graph: GraphModule, section: QuantizeSection, rewrites: Collection[str]) -> int:
    """How many operators the quantizer leaves in float, as ONNX then does, too; TFLite's converter may not."""
    graph, _ = _lowered(graph, rewrites)
    quantizer = Int8Quantizer(Histogram, PerChannelMinMaxObserver, section.keep_float, section.symmetric)
    quantizer.annotate(quantizer.transform_for_annotation(graph))
    return sum(
        node.op == "call_function"
        and node.target not in BATCH_NORM | CLAMPS | MOVING
        and "quantization_annotation" not in node.meta
        for node in graph.graph.nodes
    )


def float_ops(form: str, data: bytes) -> int:
    """How many operators of a file compute in float."""
    return len(onnx_file.float_ops(onnx.load_from_string(data)) if form == "onnx" else tflite_file.float_ops(data))


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _operators(count: int) -> str:
    return f"{count} operator{'s' if count > 1 else ''}"
