"""Remove channels from the float network, then train it to recover the accuracy."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from edgekit.config.recipe import ExportSection, PruneSection
from edgekit.data import index_file
from edgekit.data.listing import expand
from edgekit.disk import json_file
from edgekit.errors import Shortfall
from edgekit.pipeline import teaching
from edgekit.pipeline.port import Skip
from edgekit.pipeline.provenance import of_formats, versions
from edgekit.pipeline.state import Run
from edgekit.runtime import machine
from edgekit.types import Epoch, PrunePlan, Pruning

RESUMABLE = True


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
        **(teaching.inputs(run) if section.recover else {}),
    }


def _where(run: Run) -> dict[str, Any]:
    """What a latency target depends on, besides the network."""
    facts, quantize = machine.facts(), run.recipe.quantize
    return {
        "devices": [  # the first that is timed decides
            [name, device.reach.model_dump(), device.run.file_engines] for name, device in run.job.devices.items()
        ],
        "machine": {key: facts[key] for key in ("hostname", "arch", "cpu", "cores")},
        "int8": quantize and quantize.may_be_float,
        **({"activations": quantize.activations} if quantize and quantize.symmetric else {}),
        "formats": list(run.trial_formats),
        "versions": versions(
            "onnxruntime", "ai-edge-litert", "tflite-runtime", "onnx", "litert-torch", *of_formats(run.trial_formats)
        ),
    }


def build(run: Run, section: PruneSection, work: Path) -> None:
    """Write a checkpoint, ``prune.json`` (the plan) and ``pruning.json`` (what it did)."""
    import copy
    from dataclasses import replace

    from edgekit import models
    from edgekit.prune import apply
    from edgekit.search import pruning_choice
    from edgekit.train import distill, loop

    whole, before = run.load(run.done["train"])
    size = before.input.shape
    index, root = index_file.load_rooted(run.done["data"].path)
    made = work / "pruning.json"
    if not made.is_file():  # otherwise a killed run has already decided
        plan = json_file.load(expand(section.plan, run.job.base), PrunePlan) if section.plan is not None else None
        formats = (run.recipe.export or ExportSection()).trial_formats
        given = pruning_choice.Given(
            name=before.model.name,
            section=section,
            spec=before.input,
            index=index,
            root=root,
            plan=plan,
            devices=run.job.devices,
            formats=formats,
            quantize=run.recipe.quantize,
            work=work,
            console=run.console,
        )
        json_file.save(made, pruning_choice.decide(whole, given))
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
        teacher = teaching.network(run, before) or copy.deepcopy(whole)
        history = distill.recover(
            pruned, teacher, run.recipe, index, root, before.input, work, run.console, run.job.pause
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


def _share(pair: tuple[int, int]) -> str:
    return f"{pair[1] / pair[0]:.1%}"
