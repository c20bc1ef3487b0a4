"""Decide the int8 graph that every format carries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from edgekit.config.recipe import QuantizeSection
from edgekit.data import index_file
from edgekit.data.split import USUAL
from edgekit.disk import json_file
from edgekit.errors import InputError, Shortfall
from edgekit.pipeline import teaching
from edgekit.pipeline.port import Skip
from edgekit.pipeline.provenance import of_formats, versions
from edgekit.pipeline.stages import lower
from edgekit.pipeline.state import Run
from edgekit.types import Index, Quantization, Sample

if TYPE_CHECKING:
    from edgekit.search.ladder import Material

RESUMABLE = False


def section(run: Run) -> QuantizeSection | Skip:
    """Its own; skipped where there is none."""
    return run.recipe.quantize or Skip("the recipe has no [quantize] section")


def inputs(run: Run, section: QuantizeSection) -> dict[str, Any]:
    """The section, the float network and the images. Without a ladder `max_drop` decides nothing here."""
    return {
        "section": section.model_dump(exclude=None if section.rescue else {"max_drop"}),
        "augment": run.recipe.train.augment if run.recipe.train else [],
        "network": run.network.digest,
        "data": run.digest("data"),
        "rewrites": lower.allowed(run),
        "files": _files(run) if section.rescue else None,
        "versions": versions("torch", "torchao", "numpy", "pillow"),
        **(teaching.inputs(run) if _may_train(section) else {}),
    }


def _may_train(section: QuantizeSection) -> bool:
    """Whether quantization-aware training is asked for, or a rung of the ladder."""
    return section.method == "qat" or "qat" in section.rescue


def _files(run: Run) -> dict[str, Any]:
    """What decides whether a rung's files hold: their formats, and what writes and runs them."""
    return {
        "formats": list(run.trial_formats),
        "versions": versions(
            "onnx",
            "onnxscript",
            "litert-torch",
            "ai-edge-quantizer",
            "onnxruntime",
            "ai-edge-litert",
            *of_formats(run.trial_formats),
        ),
    }


def build(run: Run, section: QuantizeSection, work: Path) -> None:
    """Write ``quantized.pt2``, ``plan.json``, ``calibration.json`` and ``quantization.json``.

    If more is lost than the recipe allows, the best graph is written before Shortfall is raised.
    """
    from edgekit.graph import exported_program
    from edgekit.quantize.calibration_images import digest
    from edgekit.search import ladder

    with TemporaryDirectory(dir=work) as scratch:
        given = material(run, section, Path(scratch))
        few = _few(section, given.images.samples)
        if few:
            run.console.say(f"  {few}")
        note = one_class(index_file.load(run.done["data"].path), given.images.samples)
        climb = ladder.climb(given, section)
    samples = given.images.samples
    json_file.save(work / "calibration.json", samples)
    exported_program.save(climb.result.program, work / "quantized.pt2")
    json_file.save(
        work / "plan.json",
        exported_program.Plan(climb.result.lowered, exported_program.plan(climb.result.program.module())),
    )
    json_file.save(
        work / "quantization.json",
        Quantization(
            images=len(samples),
            calibration_sha256=digest(samples),
            ranges=climb.result.ranges,
            open_ends=climb.result.open_ends,
            gains=climb.gains,
            sensitivity=climb.sensitivity,
            rungs=climb.rungs,
            note="; ".join(filter(None, (climb.note, few, note, *climb.result.notes))),
            symmetry=climb.symmetry,
        ),
    )
    if climb.shortfall:
        raise Shortfall(climb.shortfall)


def failed(run: Run, trouble: Shortfall) -> None:
    """Nothing to do."""


def after(run: Run) -> None:
    """Nothing to do."""


def remark(run: Run) -> str:
    """Nothing to say."""
    return ""


def material(run: Run, section: QuantizeSection, scratch: Path) -> Material:
    """What a quantized graph is made from: the network and the images of a run.

    Args:
        run: with the stages before this one done.
        section: how many images, and which.
        scratch: an empty folder for files that are timed.
    """
    import torch

    from edgekit.data.dataset import ImageSet
    from edgekit.data.split import calibration
    from edgekit.data.transforms import levels
    from edgekit.quantize import gains
    from edgekit.quantize.calibration_images import Images
    from edgekit.search.ladder import Material

    recipe = run.recipe
    module, checkpoint = run.load(run.network)
    index, root = index_file.load_rooted(run.done["data"].path)
    spec = checkpoint.input
    samples = calibration(index, section.calibration, section.seed)
    more = min(len(samples) + gains.IMAGES, len(index.split("train")))
    held_out = calibration(index, more, section.seed)[len(samples) :]  # a longer list begins with the shorter one
    return Material(
        module=module,
        size=spec.shape,
        images=Images(root, samples, spec),
        pixels=torch.from_numpy(levels(spec)),
        train=ImageSet(index, root, "train", spec, recipe.train.augment if recipe.train else [], section.seed),
        val=ImageSet(index, root, "val", spec) if index.split("val") else None,
        rewrites=lower.allowed(run),
        formats=run.trial_formats,
        folder=scratch,
        console=run.console,
        held_out=Images(root, held_out, spec),
        teacher=teaching.network(run, checkpoint) if _may_train(section) else None,
    )


def _few(section: QuantizeSection, samples: Sequence[Sample]) -> str:
    """A note if the recipe names no number of calibration images and there are fewer than usual; else ""."""
    if section.calibration is not None or len(samples) >= USUAL:
        return ""
    return f"calibrated on all {len(samples)} training images, as there are no more ({USUAL} are usual)"


def one_class(index: Index, samples: Sequence[Sample]) -> str:
    """A note if all calibration images are of one class but the data has several; else ""."""
    classes = {sample.label for sample in samples}
    if len(classes) > 1 or len(index.labels) < 2:
        return ""
    label = index.labels[samples[0].label]
    if len({sample.label for sample in index.split("train")}) == 1:
        raise InputError(
            f'quantize.calibration: all training images are of class "{label}", but the data has {len(index.labels)} '
            "classes: ranges would fit that one only; add training images of the others"
        )
    return f'calibrated on images of class "{label}" only'
