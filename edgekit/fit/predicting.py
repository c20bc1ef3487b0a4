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
from edgekit.pipeline.run import Job
from edgekit.prune.cost import Cost
from edgekit.types import PrunePlan, shape_of


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


def predict(job: Job, console: Console, advice: str) -> Guesses:
    """Predict the median latency of a recipe's network, narrowed by its ``prune.plan`` if it has one.

    Args:
        job: the recipe, the devices, and a folder for its data, which say how many classes there are.
        console: progress.
        advice: what makes a model, for the message where there is none.

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
    rows: list[Guess] = []
    for name in job.devices:
        kept = [model for model in store.kept(name, family) if model.subject.unit == "ms"]
        of = [Guess(each, each.predict(shapes)) for each in kept if each.subject.size == shape_of(whole.size)]
        if not of:
            raise InputError(f"predict-latency: {_missing(name, whole.net.name, kept)}; {advice} makes one")
        rows += sorted(of, key=lambda row: row.prediction.ms)
    parameters, macs = models.count(narrow, whole.size)
    return Guesses(str(whole.net), plan, macs, parameters, tuple(rows))


def _missing(device: str, network: str, kept: Sequence[LatencyModel]) -> str:
    sides = sorted({" x ".join(map(str, model.subject.size[1:])) for model in kept})
    others = f" at this resolution (there is one at {', '.join(sides)})" if sides else ""
    return f"{device} has no latency model of {network}{others}"
