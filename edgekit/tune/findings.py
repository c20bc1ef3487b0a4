"""From the trials in the storage to the records of the search."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import optuna
from optuna import Study
from optuna.trial import TrialState

from edgekit.config.tune_section import TuneSection
from edgekit.report.svg import megabytes, ms, percent
from edgekit.tune import storage
from edgekit.tune.leases import WORKER
from edgekit.tune.records import Result, State, Target, Trial
from edgekit.tune.slots import ERROR, OF, SECONDS, Slot, slots
from edgekit.tune.space import Space
from edgekit.verdict import pareto

ENOUGH = 8
"""Complete trials from which the importance of keys is told."""


class Search(Protocol):
    """What is read of a search."""

    section: TuneSection
    space: Space
    targets: tuple[Target, ...]
    count: int
    study: Study
    storage: str
    pruner: str


def result(search: Search) -> Result:
    """Where a search stands."""
    trials = tuple(trial(slot, search.space) for slot in slots(search.study, search.count) if slot.attempts)
    front = _front(trials, search.targets)
    found = Result(
        name=search.study.study_name,
        targets=search.targets,
        space=dict(search.section.space),
        sampler=search.section.sampler,
        pruner=search.pruner,
        storage=storage.shown(search.storage),
        asked=search.count,
        trials=trials,
        front=tuple(one.number for one in front),
        importance=_importance(search.study, trials, search.space),
    )
    return replace(found, said=_said(found))


def trial(slot: Slot, space: Space) -> Trial:
    """The record of a slot."""
    one = slot.result or slot.current or slot.attempts[-1]
    attributes, state = one.user_attrs, _state(slot)
    poor = f"stopped after epoch {one.last_step}, as its accuracy was poor"
    return Trial(
        number=slot.number,
        state=state,
        settings=space.settings({key: one.params[key] for key in space.distributions if key in one.params}),
        values=tuple(one.values) if state == "complete" else (),
        of=tuple(attributes.get(OF, ())),
        epochs=dict(sorted(one.intermediate_values.items())),
        seconds=attributes.get(SECONDS),
        worker=attributes.get(WORKER, ""),
        attempts=sum(WORKER in attempt.user_attrs for attempt in slot.attempts),
        why=poor if state == "pruned" else attributes.get(ERROR, ""),
    )


def _state(slot: Slot) -> State:
    if slot.result is None:
        return "running" if slot.current else "open"
    if slot.result.state == TrialState.COMPLETE:
        return "complete"
    return "pruned" if slot.result.state == TrialState.PRUNED else "failed"


def folder(number: int) -> str:
    """Name of the run directory of a trial."""
    return f"trial-{number:04}"


def line(one: Trial, targets: Sequence[Target]) -> str:
    """A trial in one line."""
    settings = ", ".join(f"{key} = {short(value)}" for key, value in one.settings.items())
    if one.state != "complete":
        return f"trial {one.number} {one.state}: {one.why} ({settings})"
    scores = ", ".join(f"{target.name} {number(v, target)}" for v, target in zip(one.values, targets, strict=True))
    return f"trial {one.number}: {scores} ({settings})"


def number(value: float, target: Target) -> str:
    """A value with its unit."""
    return {"share": percent(value), "ms": f"{ms(value)} ms", "bytes": megabytes(value)}[target.unit]


def short(value: object) -> str:
    """A value of a key as people read it."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return value if isinstance(value, str) else json.dumps(value)


def _front(trials: Sequence[Trial], targets: Sequence[Target]) -> list[Trial]:
    """Trials that no other beats or equals in every target; of equals, the first.

    One is enough: with a single target the front is the best trial.
    """
    signs = [-1 if target.largest else 1 for target in targets]
    known = [one for one in trials if one.values]
    losses = [tuple(s * v for s, v in zip(signs, one.values, strict=True)) for one in known]
    return [known[place] for place in sorted(pareto.front(losses), key=lambda place: losses[place])]


def _importance(study: Study, trials: Sequence[Trial], space: Space) -> dict[str, float]:
    """By key, how much of the first target's variance it explains (PED-ANOVA, Watanabe et al., 2023)."""
    if sum(one.state == "complete" for one in trials) < ENOUGH or len(space.distributions) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = optuna.importance.get_param_importances(study, target=lambda each: each.values[0])
    return {key: round(float(share), 4) for key, share in found.items()}


def ranked(found: Result) -> list[Trial]:
    """Those on the front, then complete ones, the best in the first target first, then the others."""
    sign = -1 if found.targets[0].largest else 1

    def rank(one: Trial) -> tuple[int, float, int]:
        if one.number in found.front:
            return 0, found.front.index(one.number), 0
        return (1, sign * one.values[0], one.number) if one.values else (2, one.number, 0)

    return sorted(found.trials, key=rank)


def settings(one: Trial, keys: Sequence[str]) -> list[str]:
    """The settings of a trial, for a table; empty where it has none yet."""
    return [short(one.settings[key]) if key in one.settings else "" for key in keys]


def values(one: Trial, targets: Sequence[Target]) -> list[str]:
    """The values of a trial, for a table; a dash where it has none."""
    return [number(v, t) for v, t in zip(one.values, targets, strict=True)] if one.values else ["—"] * len(targets)


def state(one: Trial) -> str:
    """How a trial ended, if it has no values."""
    again = f"begun {one.attempts} times" if one.attempts > 1 else ""
    ended = "" if one.state == "complete" else f"{one.state}{f': {one.why}' if one.why else ''}"
    return "; ".join(filter(None, (ended, again)))


def measured_on(found: Result) -> list[tuple[str, str]]:
    """What the values of each target were measured on: all that occurs among the trials."""
    return [
        (target.name, "; ".join(dict.fromkeys(one.of[place] for one in found.trials if one.of)))
        for place, target in enumerate(found.targets)
        if any(one.of for one in found.trials)
    ]


def _said(found: Result) -> str:
    states = [one.state for one in found.trials]
    counts = ", ".join(f"{states.count(word)} {word}" for word in dict.fromkeys(sorted(states)))
    done = f"{found.settled} of {found.asked} trials are over ({counts})" if counts else "No trial was begun"
    if found.best is None:
        return f"{done}."
    scores = ", ".join(
        f"{target.name} {number(v, target)}" for target, v in zip(found.targets, found.best.values, strict=True)
    )
    if len(found.targets) == 1:
        return f"The best trial is {found.best.number}: {scores}. {done}."
    return (
        f"{len(found.front)} trials are on the Pareto front; the best in {found.targets[0].name} is "
        f"{found.best.number}: {scores}. {done}."
    )
