"""Which channels go, and what that alone does to cost and latency."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from edgekit import models
from edgekit.config.recipe import PruneSection, QuantizeSection
from edgekit.console import Console
from edgekit.data.dataset import ImageSet, batches
from edgekit.data.split import calibration
from edgekit.data.transforms import evaluate, levels, open_image
from edgekit.device.file import Device
from edgekit.disk import json_file
from edgekit.errors import InputError, Shortfall, Unreached
from edgekit.prune import aim, apply
from edgekit.prune.planning import Planner
from edgekit.search import latency_models, latency_target, trial_files
from edgekit.search.stopwatch import Setting, Stopwatch
from edgekit.types import Index, InputSpec, PrunePlan, Pruning, Size

SCRATCH = "trial-"
IMAGES = 2
"""Calibrate the files that are timed: they must run, not be right."""
BATCH, BATCHES = 16, 16
"""Training images behind scores that need gradients: the size of a batch, and how many."""


@dataclass(frozen=True)
class Given:
    """What decides, besides the network."""

    name: str
    """Of the network."""
    section: PruneSection
    spec: InputSpec
    index: Index
    root: Path
    """Folder that the index's paths start from."""
    plan: PrunePlan | None
    """To be replayed; None decides on one."""
    devices: Mapping[str, Device]
    """By name; the first where time is measured counts."""
    formats: Sequence[str]
    quantize: QuantizeSection | None
    """The recipe's; None times fp32."""
    work: Path
    """Gets ``prune.json``, and files that are thrown away."""
    console: Console


def decide(whole: nn.Module, given: Given) -> Pruning:
    """Decide on a plan, and write it as ``prune.json``.

    Args:
        whole: the unpruned network, in eval mode.
        given: the recipe's wishes, the images and the devices.

    Raises:
        InputError: the section cannot be met here.
        Shortfall: the pruned network is not faster, or not fast enough.
    """
    section, size = given.section, given.spec.shape
    for left in given.work.glob(f"{SCRATCH}*"):  # by a killed run
        shutil.rmtree(left)
    latency = None
    with TemporaryDirectory(dir=given.work, prefix=SCRATCH) as scratch:
        if section.latency is not None:
            clock, where = stopwatch(whole, given, Path(scratch))
            assert clock is not None
            plans = planner(whole, section, given.spec, given.index, given.root)
            model, _ = latency_models.find_or_learn(given.name, whole, plans, clock.files, clock.setting, clock.engine)
            plan, pruned, latency = latency_target.search(
                plans, model, lambda plan: _pruned(whole, plan, size), clock, section.latency, given.console
            )
            target = f"latency = {section.latency:g}"
        else:
            if given.plan is not None:
                plan, pruned = given.plan, _pruned(whole, given.plan, size)
                target = f"plan = {section.plan}"
            else:
                kind = "macs" if section.macs is not None else "parameters"
                share = getattr(section, kind)
                plan = planner(whole, section, given.spec, given.index, given.root).plan(aim.counted(kind, share))
                pruned = _pruned(whole, plan, size)
                target = f"{kind} = {share:g}"
            clock, where = stopwatch(whole, given, Path(scratch))
            latency = clock(pruned) if clock else None
    json_file.save(given.work / "prune.json", plan)
    _check_faster(latency, where, given.console)
    (old_parameters, old_macs), (new_parameters, new_macs) = models.count(whole, size), models.count(pruned, size)
    return Pruning(
        plan=plan,
        score=section.score if section.plan is None else "replayed",
        target=target,
        channels=_channels(whole, pruned),
        parameters=(old_parameters, new_parameters),
        macs=(old_macs, new_macs),
        latency_ms=latency,
        latency_where=where,
        accuracy=(None, None, None),
    )


def planner(whole: nn.Module, section: PruneSection, spec: InputSpec, index: Index, root: Path) -> Planner:
    """Plans for a network, whose scores come from training images."""
    images = ImageSet(index, root, "train", spec, seed=section.seed)

    def examples() -> Iterable[Any]:
        return islice(batches(images, BATCH, epoch=0), BATCHES) if len(images) else ()

    return Planner(whole, spec.shape, section, examples)


def few(index: Index, root: Path, spec: InputSpec, seed: int) -> list[torch.Tensor]:
    """Preprocessed images that calibrate files for timing, float32 (channels, height, width); none without any."""
    return [
        torch.from_numpy(evaluate(open_image(root / sample.path, spec), spec))
        for sample in calibration(index, None, seed)[:IMAGES]
    ]


def _pruned(whole: nn.Module, plan: PrunePlan, size: Size) -> nn.Module:
    pruned = copy.deepcopy(whole)
    apply.apply(pruned, plan, size)
    apply.check(whole, pruned, plan, size)
    return pruned


def _check_faster(latency: tuple[float, float] | None, where: str, console: Console) -> None:
    if latency is None:
        console.say(f"  latency: {where}")
        return
    was, now = latency
    console.say(f"  latency: {now:.3g} ms, unpruned {was:.3g} ms ({where})")
    if now >= was:
        raise Shortfall(
            f"prune: the pruned network is not faster: {now:.3g} ms, unpruned {was:.3g} ms ({where}); prune more, "
            "let prune.round_to be 16, or leave [prune] out for this device"
        )


def clock(section: PruneSection, devices: Mapping[str, Device]) -> str | None:
    """The first device where time is measured; None if there is none.

    Raises:
        InputError: there is none, and `section` has a target in latency.
    """
    timed = [name for name, device in devices.items() if trial_files.is_timed(device)]
    if timed or section.latency is None:
        return timed[0] if timed else None
    if not devices:
        raise InputError("prune.latency needs a device to measure on: add a [profile] section or --device")
    raise InputError(
        f"prune.latency needs a device where time is measured, but {', '.join(devices)} is emulated: add --device host"
    )


def stopwatch(whole: nn.Module, given: Given, scratch: Path) -> tuple[Stopwatch | None, str]:
    """What times networks on the first device where time is measured, and where; or None, and why not."""
    name = clock(given.section, given.devices)
    if name is None:
        why = f"{', '.join(given.devices)} is emulated" if given.devices else "no device was given"
        return None, f"not measured: {why}"
    device = given.devices[name]
    images = few(given.index, given.root, given.spec, given.section.seed)
    if given.quantize and not images:
        return None, "not measured: no training images to calibrate int8 files with"
    setting = Setting(
        name,
        device,
        given.formats,
        given.quantize,
        given.spec.shape,
        images,
        torch.from_numpy(levels(given.spec)),
        scratch,
        given.console,
    )
    try:
        stopwatch = Stopwatch(whole, setting)
    except Unreached as trouble:
        if given.section.latency is not None:
            raise Shortfall(f"prune.latency: {trouble}") from None
        return None, f"not measured: {trouble}"
    return stopwatch, stopwatch.where


def _channels(whole: nn.Module, pruned: nn.Module) -> dict[str, tuple[int, int]]:
    """Outputs of the layers that lost some; 0 of those that are gone."""
    now = dict(pruned.named_modules())
    widths = {
        name: (layer.weight.shape[0], now[name].weight.shape[0] if name in now else 0)
        for name, layer in whole.named_modules()
        if hasattr(layer, "weight") and layer.weight is not None and layer.weight.ndim > 1
    }
    return {name: (was, is_) for name, (was, is_) in widths.items() if was != is_}
