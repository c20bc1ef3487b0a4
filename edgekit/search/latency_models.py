"""The latency model of a network on a device: found where an earlier search kept it, or learnt from random networks."""

from __future__ import annotations

from torch import nn

from edgekit.latency import store
from edgekit.latency.model import LatencyModel, Subject
from edgekit.prune.planning import Planner
from edgekit.search import latency_session
from edgekit.search.stopwatch import Setting, Where
from edgekit.search.trial_files import is_timed
from edgekit.types import shape_of

POOR = 0.1
"""Median error of held-out networks beyond which a model is used once, but not kept."""


def find_or_learn(
    name: str, module: nn.Module, planner: Planner, files: latency_session.Files, setting: Setting, where: Where
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
        threads=1 if is_timed(setting.on) else (setting.on.run.threads or [1])[0],
        family=store.family(name, whole),
        size=shape_of(setting.size),
    )
    found = store.find(subject)
    if found.model is not None:
        setting.console.say(f"  {setting.device}: the latency model of an earlier search is used")
        return found.model, 0
    setting.console.say(f"  {found.why}: {latency_session.COUNT} random networks are timed")
    learnt = latency_session.learn(module, planner.groups, name, setting, files)
    model = next(each for each in learnt if each.subject.unit == "ms")
    if model.errors.median <= POOR:
        store.save(model)
    else:
        setting.console.say(f"  {setting.device} was too busy for a latency model that is worth keeping")
    return model, latency_session.COUNT
