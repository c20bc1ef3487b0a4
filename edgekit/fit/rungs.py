"""Train candidates in rungs, and give up the weaker half after each.

Successive halving: Jamieson, Talwalkar: Non-stochastic Best Arm Identification and Hyperparameter Optimization (2016).
A rung is the beginning of one and the same training, so that nothing is trained twice.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from edgekit import checkpoint_file
from edgekit.disk import json_file
from edgekit.disk.run_directory import RunDirectory
from edgekit.errors import Paused, Shortfall
from edgekit.fit.networks import Workshop
from edgekit.fit.records import Candidate, Net, Trained
from edgekit.types import Pruning

RUNGS = (0.05, 0.15, 1.0)
"""Shares of the recovery's epochs; a rung has one epoch at least."""
FINALISTS = 2
"""Most candidates that are trained to the end."""
SPENT = "the time budget was spent"
"""Why a candidate was not trained on; another call, which has time again, goes on with it."""
Keep = Callable[[Sequence[Candidate]], None]
"""Saves what is known, after each step."""


def halve(workshop: Workshop, candidates: Sequence[Candidate], until: float | None, keep: Keep) -> list[Candidate]:
    """Train pruned candidates, each a run of its own, and drop the weaker half after each rung; then whole networks.

    Args:
        workshop: trains them.
        candidates: those that are within the budget; what they were trained before counts.
        until: `time.monotonic` by which to end; None: no limit. The rung in progress is finished with fewer candidates.
        keep: called after each training.

    Returns:
        All of them: those trained to the end, and those dropped on the way.
    """
    last = workshop.prune.recover
    table = {one.id: replace(one, dropped="") if one.dropped == SPENT else one for one in candidates}
    left = [one.id for one in candidates if one.plan is not None]
    for number, share in enumerate(RUNGS, 1):
        epochs = last if share == 1.0 else min(last, max(number, math.ceil(share * last)))
        for place, name in enumerate(left):
            if table[name].dropped or _done(table[name], epochs):
                continue
            if until is not None and place and time.monotonic() + _wait(table, left[:place], epochs) > until:
                table[name] = replace(table[name], dropped=SPENT)
                continue
            workshop.console.say(f"fit: {name}, epoch {epochs} of {last} ({place + 1} of {len(left)} in rung {number})")
            table[name] = _train(workshop, table[name], epochs)
            keep(list(table.values()))
        alive = [name for name in left if not table[name].dropped]
        alive.sort(key=lambda name: -(table[name].accuracy or 0.0))
        if share == 1.0:
            break
        stay = _stay(len(alive), number)
        for name in alive[stay:]:
            best = table[alive[stay - 1]].accuracy or 0.0
            why = f"{table[name].accuracy or 0.0:.1%} after epoch {epochs}, where {stay} had at least {best:.1%}"
            table[name] = replace(table[name], dropped=why)
        left = alive[:stay]
        keep(list(table.values()))
    for name, one in table.items():
        if one.plan is None and not one.dropped and not one.trained:
            if until is not None and time.monotonic() > until:
                table[name] = replace(one, dropped=SPENT)
            else:
                workshop.console.say(f"fit: {name}, the recipe's [train]")
                table[name] = _train_whole(workshop, one)
            keep(list(table.values()))
    return list(table.values())


def _stay(count: int, number: int) -> int:
    half = math.ceil(count / 2)
    return min(half, FINALISTS) if number == len(RUNGS) - 1 else half


def _done(one: Candidate, epochs: int) -> bool:
    return bool(one.trained) and one.trained[-1].epochs >= epochs


def _wait(table: dict[str, Candidate], before: Sequence[str], epochs: int) -> float:
    """About how long the next training takes: as long as the longest of this rung."""
    spans = [table[name].trained for name in before if table[name].trained]
    return max((each[-1].seconds * epochs / max(each[-1].epochs, 1) for each in spans), default=0.0)


def _train_whole(workshop: Workshop, one: Candidate) -> Candidate:
    """Train an unpruned network; one that falls short is dropped."""
    began = time.monotonic()
    try:
        workshop.run(workshop.folder(one.net), workshop.recipe(one.net), "train", one.net)
    except Shortfall as trouble:
        return replace(one, dropped=str(trouble).splitlines()[0])
    (score,) = straight(workshop, one.net)
    return replace(one, trained=(replace(score, seconds=round(time.monotonic() - began, 1)),))


def straight(workshop: Workshop, net: Net) -> tuple[Trained, ...]:
    """The score of a whole network after the recipe's [train], which has been done."""
    checkpoint = checkpoint_file.load(RunDirectory(workshop.folder(net)).folder("train"))
    accuracy = next((score.accuracy for score in checkpoint.metrics if score.split == "val"), 0.0)
    seconds = sum(epoch.seconds for epoch in checkpoint.history)
    return (Trained(len(checkpoint.history), accuracy, round(seconds, 1)),)


def _train(workshop: Workshop, one: Candidate, epochs: int) -> Candidate:
    """Train one candidate up to an epoch."""
    folder = workshop.job.out / one.id
    began = time.monotonic()
    before = one.trained[-1].seconds if one.trained else 0.0
    try:
        workshop.run(folder, workshop.pruned(one), "prune", one.net, pause=epochs)
    except Paused as paused:
        accuracy = paused.score or 0.0
    except Shortfall as trouble:
        return replace(one, dropped=str(trouble).splitlines()[0])
    else:
        pruning = json_file.load(RunDirectory(folder).folder("prune") / "pruning.json", Pruning)
        accuracy = pruning.accuracy[2] or pruning.accuracy[1] or 0.0
    spent = round(before + time.monotonic() - began, 1)
    return replace(one, trained=(*one.trained, Trained(epochs, accuracy, spent)))
