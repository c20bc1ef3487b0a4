"""What a recipe's network takes on devices that have a latency model: nothing is measured, no device is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgekit import models
from edgekit.console import Console
from edgekit.data.listing import expand
from edgekit.disk import json_file
from edgekit.errors import InputError
from edgekit.fit.networks import Workshop
from edgekit.fit.widths import narrowed
from edgekit.latency import store
from edgekit.latency.model import LatencyModel, Prediction
from edgekit.latency.shapes import LayerShape
from edgekit.pipeline.run import Job
from edgekit.prune.cost import Cost
from edgekit.types import PrunePlan, Size, shape_of


@dataclass(frozen=True)
class Guess:
    """What one model says."""

    model: LatencyModel
    prediction: Prediction


@dataclass(frozen=True)
class Guesses:
    """What all models of the devices say about one network."""

    network: str
    plan: str | None
    """The file that narrows it; None: it is whole."""
    macs: int
    parameters: int
    rows: tuple[Guess, ...]
    """Devices in their order, the fastest engine of each first."""


def predict(job: Job, console: Console) -> Guesses:
    """Predict the median latency of a recipe's network, narrowed by its ``prune.plan`` if it has one.

    Args:
        job: the recipe, the devices, and a folder for its data, which say how many classes there are.
        console: progress.

    Raises:
        InputError: no device is named, one has no model of this network, or something in the recipe cannot be used.
    """
    if not job.devices:
        raise InputError("predict-latency: needs a device: --device NAME, or a [profile] section")
    workshop = Workshop(job, console)
    whole = workshop.untrained(workshop.own)
    plan = workshop.prune.plan
    narrow = narrowed(whole, json_file.load(expand(plan, job.base), PrunePlan) if plan is not None else None)
    shapes = Cost(narrow, (), whole.size).shapes({})
    family = store.family(whole.net.name, whole.planner.cost.shapes({}))
    rows = [guess for name in job.devices for guess in _guesses(name, family, whole.size, shapes, job)]
    parameters, macs = models.count(narrow, whole.size)
    return Guesses(str(whole.net), plan, macs, parameters, tuple(rows))


def _guesses(device: str, family: str, size: Size, shapes: Sequence[LayerShape], job: Job) -> list[Guess]:
    kept = [model for model in store.kept(device, family) if model.subject.unit == "ms"]
    rows = [Guess(model, model.predict(shapes)) for model in kept if model.subject.size == shape_of(size)]
    if rows:
        return sorted(rows, key=lambda row: row.prediction.ms)
    sides = {" x ".join(map(str, model.subject.size[1:])) for model in kept}
    others = f" at this resolution (there is one at {', '.join(sorted(sides))})" if sides else ""
    raise InputError(
        f"predict-latency: {device} has no latency model of {job.recipe.model.name}{others}; this makes one: "
        f"edgekit fit RECIPE --device NAME --max-ms MS --dry-run"
    )
