"""Remove channels from the float network, then train it to recover the accuracy."""

from __future__ import annotations

import hashlib
import shutil
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from edgekit.config.recipe import ExportSection, PruneSection
from edgekit.data import index_file
from edgekit.data.listing import expand
from edgekit.disk import json_file
from edgekit.errors import InputError, Shortfall, Unreached
from edgekit.pipeline.port import Skip
from edgekit.pipeline.provenance import versions
from edgekit.pipeline.state import Run
from edgekit.runtime import machine
from edgekit.types import Checkpoint, Epoch, Index, PrunePlan, Pruning

if TYPE_CHECKING:
    from torch import nn

    from edgekit.search.prune_latency import Stopwatch

RESUMABLE = True
SCRATCH = "trial-"
IMAGES = 2
"""Images to calibrate files that are only timed, whose accuracy does not matter."""
BATCH, BATCHES = 16, 16
"""Training images for scores that need gradients: the batch size, and how many."""


def section(run: Run) -> PruneSection | Skip:
    """Its own; skipped where there is none."""
    return run.recipe.prune or Skip("the recipe has no [prune] section")


def inputs(run: Run, section: PruneSection) -> dict[str, Any]:
    """The section, the network and the images; where it is timed, if that decides."""
    plan = expand(section.plan, run.job.base) if section.plan else None
    return {
        "section": section.model_dump(),
        "recovery": run.recipe.train.model_dump() if run.recipe.train else None,
        "plan": hashlib.sha256(plan.read_bytes()).hexdigest() if plan and plan.is_file() else None,
        "train": run.digest("train"),
        "data": run.digest("data"),
        "where": _where(run) if section.latency else None,
        "versions": versions("torch", "torch-pruning", "numpy", "pillow"),
    }


def _where(run: Run) -> dict[str, Any]:
    """What a latency target depends on, besides the network."""
    facts = machine.facts()
    return {
        "devices": [  # the first that is timed decides
            [name, device.reach.model_dump(), device.run.file_engines] for name, device in run.job.devices.items()
        ],
        "machine": {key: facts[key] for key in ("hostname", "arch", "cpu", "cores")},
        "int8": run.recipe.quantize and run.recipe.quantize.keep_float,
        "formats": run.recipe.export.formats if run.recipe.export else [],
        "versions": versions("onnxruntime", "ai-edge-litert", "tflite-runtime", "onnx", "litert-torch"),
    }


def build(run: Run, section: PruneSection, work: Path) -> None:
    """Write a checkpoint, ``prune.json`` (the plan) and ``pruning.json`` (what it did)."""
    import copy
    from dataclasses import replace

    from edgekit import models
    from edgekit.prune import apply
    from edgekit.train import distill, loop

    whole, before = models.load(run.done["train"].path)
    size = before.input.size
    index = index_file.load(run.done["data"].path)
    root = index_file.root_of(index, run.done["data"].path)
    made = work / "pruning.json"
    if not made.is_file():  # otherwise a killed run has already decided
        json_file.save(made, _decide(run, section, whole, before, index, root, work))
    pruning = json_file.load(made, Pruning)
    run.console.say(f"  {pruning.plan}")
    run.console.say(f"  {_share(pruning.macs)} of the multiply-adds, {_share(pruning.parameters)} of the parameters")
    pruned = copy.deepcopy(whole)
    apply.apply(pruned, pruning.plan, size)
    first = loop.score_split(pruned, index, root, before.input, "val").accuracy if index.split("val") else None
    history: tuple[Epoch, ...] = ()
    if not section.recover:
        run.console.say("  prune.recover = 0: the pruned network is not trained")
    elif not index.split("train"):
        run.console.say("  the data has no training split: the pruned network is not trained")
    else:
        history = distill.recover(
            pruned, copy.deepcopy(whole), run.recipe, index, root, before.input, work, run.console
        )
    parameters, macs = models.count(pruned, size)
    metrics = tuple(
        loop.score_split(pruned, index, root, before.input, split) for split in ("val", "test") if index.split(split)
    )
    was, now = ({score.split: score.accuracy for score in each}.get("val") for each in (before.metrics, metrics))
    json_file.save(made, replace(pruning, accuracy=(was, first, now)))
    checkpoint = replace(
        before,
        weights=models.WEIGHTS,
        trained=before.trained or bool(history),
        history=history,
        metrics=metrics,
        parameters=parameters,
        macs=macs,
        plan=pruning.plan,
    )
    models.save(work, pruned, checkpoint)


def failed(run: Run, trouble: Shortfall) -> None:
    """Nothing to do."""


def after(run: Run) -> None:
    """Nothing to do."""


def remark(run: Run) -> str:
    """Nothing to say."""
    return ""


def _decide(
    run: Run, section: PruneSection, whole: nn.Module, before: Checkpoint, index: Index, root: Path, work: Path
) -> Pruning:
    """Decide which channels to remove, and what that alone does to cost and latency."""
    import copy

    from edgekit import models
    from edgekit.data.dataset import ImageSet, batches
    from edgekit.prune import apply, planning
    from edgekit.search import prune_latency

    size = before.input.size
    images = ImageSet(index, root, "train", before.input, seed=section.seed)

    def examples() -> Any:
        return islice(batches(images, BATCH, epoch=0), BATCHES) if len(images) else ()

    def after(plan: PrunePlan) -> nn.Module:
        pruned = copy.deepcopy(whole)
        apply.apply(pruned, plan, size)
        apply.check(whole, pruned, plan, size)
        return pruned

    def at(kind: str, share: float) -> tuple[PrunePlan, nn.Module]:
        plan = planning.decide(whole, size, section, examples, kind, share)
        return plan, after(plan)

    for left in work.glob(f"{SCRATCH}*"):  # left by a killed run
        shutil.rmtree(left)
    with TemporaryDirectory(dir=work, prefix=SCRATCH) as scratch:

        def stopwatch() -> tuple[Stopwatch | None, str]:
            return _stopwatch(run, section, whole, before, index, root, Path(scratch))

        latency = None
        if section.latency is not None:
            clock, where = stopwatch()
            assert clock is not None
            plan, pruned, latency = prune_latency.search(
                lambda share: at("macs", share), clock, section.latency, run.console
            )
            target = f"latency = {section.latency:g}"
        else:
            if section.plan is not None:
                plan = json_file.load(expand(section.plan, run.job.base), PrunePlan)
                pruned = after(plan)
                target = f"plan = {section.plan}"
            else:
                kind = "macs" if section.macs is not None else "parameters"
                share = getattr(section, kind)
                plan, pruned = at(kind, share)
                target = f"{kind} = {share:g}"
            clock, where = stopwatch()
            latency = clock(pruned) if clock else None
    json_file.save(work / "prune.json", plan)
    if latency is None:
        run.console.say(f"  latency: {where}")
    else:
        was, now = latency
        run.console.say(f"  latency: {now:.3g} ms, unpruned {was:.3g} ms ({where})")
        if now >= was:
            raise Shortfall(
                f"prune: the pruned network is not faster: {now:.3g} ms, unpruned {was:.3g} ms ({where}); prune more, "
                "set prune.round_to = 16, or leave [prune] out for this device"
            )
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


def _stopwatch(
    run: Run, section: PruneSection, whole: nn.Module, before: Checkpoint, index: Index, root: Path, scratch: Path
) -> tuple[Stopwatch | None, str]:
    """A stopwatch on the first device of the run that measures time, and a description; or None and the reason."""
    import torch

    from edgekit.data.split import calibration
    from edgekit.data.transforms import evaluate, levels, open_rgb
    from edgekit.search import trial_files
    from edgekit.search.prune_latency import Setting, Stopwatch

    if not run.job.devices:
        if section.latency is not None:
            raise InputError("prune.latency needs a device to measure on: add a [profile] section or --device")
        return None, "not measured: no device was given"
    timed = [(name, device) for name, device in run.job.devices.items() if trial_files.is_timed(device)]
    if not timed:
        names = ", ".join(run.job.devices)
        if section.latency is not None:
            raise InputError(
                f"prune.latency needs a device where time is measured, but {names} is emulated: add --device host"
            )
        return None, f"not measured: {names} is emulated"
    name, device = timed[0]
    images = [
        torch.from_numpy(evaluate(open_rgb(root / sample.path), before.input))
        for sample in calibration(index, IMAGES, section.seed)
    ]
    if run.recipe.quantize and not images:
        return None, "not measured: no training images to calibrate int8 files with"
    setting = Setting(
        name,
        device,
        (run.recipe.export or ExportSection()).formats,
        run.recipe.quantize,
        before.input.size,
        images,
        torch.from_numpy(levels(before.input)),
        scratch,
        run.console,
    )
    try:
        stopwatch = Stopwatch(whole, setting)
    except Unreached as trouble:
        if section.latency is not None:
            raise Shortfall(f"prune.latency: {trouble}") from None
        return None, f"not measured: {trouble}"
    return stopwatch, stopwatch.where


def _channels(whole: nn.Module, pruned: nn.Module) -> dict[str, tuple[int, int]]:
    """Outputs before and after, of the layers that lost some."""
    now = dict(pruned.named_modules())
    widths = {
        name: (layer.weight.shape[0], now[name].weight.shape[0])
        for name, layer in whole.named_modules()
        if hasattr(layer, "weight") and layer.weight is not None and layer.weight.ndim > 1
    }
    return {name: (was, is_) for name, (was, is_) in widths.items() if was != is_}


def _share(pair: tuple[int, int]) -> str:
    return f"{pair[1] / pair[0]:.1%}"
