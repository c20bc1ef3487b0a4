"""The latency model of a network on a device: found where an earlier search kept it, or learnt from random networks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import nn

from edgekit.latency import store
from edgekit.latency.model import LatencyModel, Subject
from edgekit.prune import apply
from edgekit.prune.planning import Planner
from edgekit.search import latency_session
from edgekit.search.prune_latency import Setting, Where
from edgekit.types import shape_of

COUNT = 11
"""Networks to learn from, besides the whole one."""
POOR = 0.1
"""Median error of held-out networks beyond which a model is used once, but not kept."""
Files = Callable[[nn.Module, str], Mapping[str, Path]]
"""Writes the files of a network, by format, in a folder of that name."""


def find_or_learn(
    name: str, module: nn.Module, planner: Planner, files: Files, setting: Setting, where: Where
) -> tuple[LatencyModel, int]:
    """The model of a network, in milliseconds; learnt and kept if there is none for this version of the engine.

    Args:
        name: of the network.
        module: the network, unpruned; its weights do not matter.
        planner: knows what can be pruned.
        files: makes what is timed.
        setting: the device, with the one engine.
        where: that engine.

    Returns:
        The model, and how many files were timed for it.

    Raises:
        Unreached: the device is gone.
        Shortfall: too few networks could be made or measured.
    """
    whole = planner.cost.shapes({})
    subject = Subject(
        device=setting.device,
        cpu=where.cpu,
        engine=where.engine,
        engine_version=where.engine_version,
        format=where.format,
        precision="int8" if setting.quantize else "fp32",
        threads=1,
        family=store.family(name, whole),
        size=shape_of(setting.size),
    )
    found = store.find(subject)
    if found.model is not None:
        setting.console.say(f"  {setting.device}: the latency model of an earlier search is used")
        return found.model, 0
    setting.console.say(f"  {found.why}: {COUNT} random networks are timed")
    plans = {f"random-{place}": plan for place, plan in enumerate(latency_session.random_plans(planner.groups, COUNT))}
    shapes = {label: planner.cost.shapes(latency_session.gone(plan)) for label, plan in plans.items()}
    shapes[latency_session.WHOLE] = whole
    made = {(latency_session.WHOLE, where.format): files(module, "whole")[where.format]}
    for label, plan in plans.items():
        narrow = copy.deepcopy(module)
        apply.apply(narrow, plan, setting.size)
        made[label, where.format] = files(narrow, label)[where.format]
    readings = latency_session.measure(made, setting)
    operators = latency_session.profiles(made, readings, setting)
    learnt = latency_session.models(readings, shapes, name, setting, operators)
    model = next(each for each in learnt if each.subject.unit == "ms")
    if model.errors.median <= POOR:
        store.save(model)
    else:
        setting.console.say(f"  {setting.device} was too busy for a latency model that is worth keeping")
    return model, COUNT
