"""Validation top-1: of the float network, or of the int8 graph where that is what the trials differ in.

The test split decides nothing here: a search over it would overstate every accuracy that is reported later.
"""

from pathlib import Path

from edgekit.disk import json_file
from edgekit.disk.run_directory import RunDirectory
from edgekit.errors import InputError, Shortfall
from edgekit.pipeline.results import Results
from edgekit.tune.port import Asked, Value
from edgekit.tune.records import Unit
from edgekit.types import Quantization

UNIT: Unit = "share"
LARGEST = True
LATER = ("prune", "lower", "quantize", "export")
"""Sections that change the files, and not what is trained before."""


def names(asked: Asked) -> list[str]:
    """One."""
    recipe = asked.recipe
    if recipe.train is None and "train" not in asked.sections and stage(asked) == "train":
        raise InputError(
            'tune.objective: "accuracy" would be the same for every trial: the recipe has no [train] section, and '
            "tune.space varies nothing after training"
        )
    if stage(asked) == "quantize" and not (recipe.quantize and recipe.quantize.rescue):
        raise InputError(
            'tune.objective: "accuracy" of int8 is what the rescue ladder measures on validation images, but '
            "quantize.rescue is empty: give it at least one rung"
        )
    return ["accuracy"]


def stage(asked: Asked) -> str:
    """As far as the trials differ, or as the files are made that other objectives measure."""
    if not set(asked.sections) & set(LATER) and set(asked.objectives) == {"accuracy"}:
        return "train"
    export = asked.recipe.export
    if asked.recipe.quantize is not None and (export is None or "int8" in export.precisions):
        return "quantize"
    return "prune" if asked.recipe.prune is not None else "train"


def values(asked: Asked, results: Results, run: Path) -> list[Value]:
    """Top-1 on the validation images, 0..1."""
    checkpoint = results.checkpoint
    assert checkpoint is not None
    score = next((metrics for metrics in checkpoint.metrics if metrics.split == "val"), None)
    if score is None:
        raise InputError("tune: trials are compared on validation images, but there are none: set data.val")
    images = f"{score.images} validation images"
    if stage(asked) != "quantize":
        return [Value(score.accuracy, f"float network in torch, {images}")]
    made = json_file.load(RunDirectory(run).folder("quantize") / "quantization.json", Quantization)
    rung = next((rung for rung in made.rungs if rung.chosen and rung.accuracy is not None), None)
    if rung is None or rung.accuracy is None:
        raise Shortfall(f"tune: int8 was not scored on validation images: {made.note}")
    return [Value(rung.accuracy, f"int8 graph in torch, {images}")]
