"""Keys that a recipe sets although another key leaves them without effect."""

from __future__ import annotations

from collections.abc import Iterator

from edgekit.config.recipe import ExportSection, Recipe
from edgekit.config.toml import Section
from edgekit.config.train_section import TrainSection


def lines(recipe: Recipe) -> list[str]:
    """One line for each, e.g. ``prune.lr = 0.01 has no effect: prune.recover is 0``."""
    return [f"{key} has no effect: {why}" for key, why in _found(recipe)]


def _found(recipe: Recipe) -> Iterator[tuple[str, str]]:
    prune, quantize, export = recipe.prune, recipe.quantize, recipe.export
    if recipe.train is not None:
        yield from _in_training(recipe.train)
    if recipe.data.resize == "letterbox":
        for key in _changed(recipe.model, "crop"):
            yield f"model.{key}", 'data.resize is "letterbox", which crops nothing'
    else:
        for key in _changed(recipe.data, "pad"):
            yield f"data.{key}", f'data.resize is "{recipe.data.resize}", which has no border'
    if prune is not None and prune.plan is not None:
        for key in _changed(prune, "score", "scope", "round_to", "steps", "keep"):
            yield f"prune.{key}", "prune.plan says which channels go"
    if prune is not None and not prune.recover:
        for key in _changed(prune, "lr", "distill", "temperature"):
            yield f"prune.{key}", "prune.recover is 0, so the pruned network is not trained"
    if quantize is not None and quantize.method == "qat":
        for key in _changed(quantize, "equalize", "rounding"):
            yield f"quantize.{key}", 'quantize.method is "qat", which trains the weights'
    elif quantize is not None and "qat" not in quantize.rescue:
        for key in _changed(quantize.qat, *type(quantize.qat).model_fields):
            yield f"quantize.qat.{key}", 'quantize.method is not "qat", and quantize.rescue does not name it'
    chosen = export.precisions if export is not None and export.precisions != ExportSection().precisions else []
    if quantize is None and "int8" in chosen:
        yield 'export.precisions: "int8"', "the recipe has no [quantize] section"
    if recipe.verify is not None and export is None and recipe.verify != type(recipe.verify)():
        yield "[verify]", "the recipe has no [export] section"


def _in_training(train: TrainSection) -> Iterator[tuple[str, str]]:
    for keys, key, users in (
        (("milestones",), "schedule", ("step",)),
        (("gamma",), "schedule", ("step", "plateau")),
        (("plateau",), "schedule", ("plateau",)),
        (("focal_gamma",), "loss", ("focal",)),
    ):
        if getattr(train, key) not in users:
            for changed in _changed(train, *keys):
                yield f"train.{changed}", f'train.{key} is "{getattr(train, key)}"'


def _changed(section: Section, *keys: str) -> list[str]:
    """Those with another value than the default, and that value."""
    fields = type(section).model_fields
    return [
        f"{key} = {getattr(section, key)}"
        for key in keys
        if getattr(section, key) != fields[key].get_default(call_default_factory=True)
    ]
