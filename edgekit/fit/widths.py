"""Pruned networks for a budget of milliseconds: planned by prediction, then closed in on by measuring."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from edgekit import models
from edgekit.config.fit_section import FitSection
from edgekit.errors import InputError
from edgekit.fit.networks import Whole
from edgekit.fit.records import Candidate, Measurement, Net, Prediction
from edgekit.fit.timing import Clock
from edgekit.latency.model import LatencyModel
from edgekit.latency.shapes import LayerShape
from edgekit.prune import apply
from edgekit.prune.aim import Aim, CostOf, Gone
from edgekit.prune.cost import Cost
from edgekit.search import latency_session
from edgekit.search.latency_target import corrected
from edgekit.types import PrunePlan

AIMS = (0.97, 0.95, 0.9)
"""Shares of the budget that the first file of a candidate is planned for, the second, and the last: what is measured
has an interval, and the last one has to be within."""
USED = 0.94
"""Share of the budget from which a network is wide enough."""
MOST_FILES = 26
"""Files of a search before other resolutions; styles late in the list go without another try first."""
ALL_FILES = 29
"""Files of a search before what ships, which makes it 30."""
STEPS = 4
"""How many times scores are recomputed on the way: each pass over the images costs seconds."""


@dataclass(frozen=True)
class Style:
    """One way of choosing widths for a budget."""

    id: str
    how: str
    per_cost: bool = False
    scores: Literal["relative", "absolute"] = "relative"
    choices: Mapping[str, Any] = field(default_factory=dict)
    """Keys of [prune]."""


STYLES = (
    Style("per-ms", "least important for each millisecond first", True),
    Style("absolute-per-ms", "least estimated loss for each millisecond first", True, "absolute"),
    Style("uniform", "the same share of every layer", choices={"scope": "local"}),
    Style("importance", "least important channels first, whatever they cost"),
    Style("norm-per-ms", "smallest weights for each millisecond first", True, choices={"score": "l2"}),
    Style("one-shot", "least important for each millisecond first, scored once", True, choices={"steps": 1}),
    Style("absolute", "least estimated loss first, whatever it costs", False, "absolute"),
    Style("uniform-norm", "the same share of every layer, by their weights", choices={"scope": "local", "score": "l2"}),
)
"""In the order in which they are tried; the third and the fourth are what one would do without a latency model."""


@dataclass(frozen=True)
class Budget:
    """What a network may cost, as a share of 1: the largest of its shares of every limit."""

    section: FitSection
    models: Mapping[str, LatencyModel]
    """By device."""
    mb_per_weight: float
    """Of the whole network's file."""
    scales: Mapping[str, float] = field(default_factory=dict)
    """By device: what the whole network takes as the budget counts (percentile, threads), over what its model says."""

    def of(self, cost: Cost) -> CostOf:
        """The largest share that a narrower network takes of any limit, predicted."""
        return lambda gone: self.share(cost.shapes(gone))

    def share(self, shapes: Sequence[LayerShape]) -> float:
        """The largest share that a network takes of any limit, predicted from its layers."""
        time = self.time(shapes)
        if self.section.max_mb is None:
            return time
        return max(time, self.mb_per_weight * sum(shape.weights for shape in shapes) / self.section.max_mb)

    def time(self, shapes: Sequence[LayerShape]) -> float:
        """The largest share that a network takes of the time on any device, predicted from its layers."""
        found = (self.scales.get(name, 1.0) * model.predict(shapes).ms for name, model in self.models.items())
        return max(found) / self.section.max_ms

    def predictions(self, cost: Cost, gone: Gone) -> tuple[Prediction, ...]:
        """Of each device."""
        shapes = cost.shapes(gone)
        found = []
        for device, model in self.models.items():
            each, scale = model.predict(shapes), self.scales.get(device, 1.0)
            found.append(Prediction(device, *(round(scale * ms, 4) for ms in (each.ms, each.low, each.high))))
        return tuple(found)

    def load(self, rows: Sequence[Measurement]) -> float:
        """The largest share that a measured network takes of any limit, its time at the upper bound."""
        section = self.section
        found: list[float] = []
        for row in rows:
            found.append(row.high / section.max_ms)
            found += [row.file_mb / section.max_mb] if section.max_mb is not None else []
            found += [row.rss_mb / section.max_rss] if section.max_rss is not None else []
        return float(max(found))


def narrowed(whole: Whole, plan: PrunePlan | None) -> nn.Module:
    """The network that a plan leaves."""
    module = copy.deepcopy(whole.module)
    if plan is not None:
        plan = replace(plan, dropped=tuple(name for name in plan.dropped if name not in whole.dropped))
        apply.apply(module, plan, whole.size)
        apply.check(whole.module, module, plan, whole.size)
    return module


def candidate(whole: Whole, name: str, how: str, plan: PrunePlan | None, budget: Budget | None) -> Candidate:
    """A plan as a candidate, not measured yet."""
    parameters, macs = models.count(narrowed(whole, plan), whole.size)
    predicted = budget.predictions(whole.planner.cost, latency_session.gone(plan) if plan else {}) if budget else ()
    return Candidate(name, whole.net, how, plan, macs, parameters, predicted)


def plan(whole: Whole, style: Style, budget: Budget, share: float) -> PrunePlan:
    """The plan of one style that takes a share of the budget, as predicted.

    Raises:
        InputError: out of reach.
        Shortfall: the loss has no finite gradient.
    """
    full = budget.of(whole.planner.cost)({})
    aim = Aim("fit.max_ms", min(share / full, 1.0), budget.of, style.per_cost, style.scores)
    steps = min(STEPS, whole.section.steps)
    section = whole.section.model_copy(update={"steps": steps, "scope": "global", **style.choices})
    return replace(whole.planner.plan(aim, section), dropped=whole.dropped)


def elsewhere(net: Net) -> Style:
    """How widths are chosen at another resolution."""
    style = next(style for style in STYLES if style.id == "absolute-per-ms")
    return replace(style, id=f"{style.id}-{net.side}", how=f"{style.how}, at {net.side} px")


def close(
    whole: Whole, styles: Sequence[Style], budget: Budget, clock: Clock, unpruned: float, most: int = MOST_FILES
) -> list[Candidate]:
    """For each style, the widest network whose measured upper bound is within every limit.

    Each try corrects the share of the budget that is planned for by what was measured; all styles' files of one try
    are timed in one session.

    Args:
        whole: the trained network.
        styles: how widths are chosen.
        budget: the limits.
        clock: measures.
        unpruned: the largest share that the whole network takes of any limit, measured or predicted.
        most: files that may be timed from the beginning of the search.

    Returns:
        A candidate for each style; `Candidate.dropped` says why one cannot be had.
    """
    at = budget.of(whole.planner.cost)({}), unpruned
    shares = dict.fromkeys((style.id for style in styles), AIMS[0])
    best: dict[str, Candidate] = {}
    latest: dict[str, Candidate] = {}
    for number in range(len(AIMS)):
        made: dict[str, Candidate] = {}
        files: dict[str, Mapping[str, Path]] = {}
        for style in styles:
            if style.id not in shares:
                continue
            if clock.files + len(files) >= most:
                left = replace(_unplanned(whole, style), dropped=f"{most} files were timed before it")
                latest.setdefault(style.id, left)
                del shares[style.id]
                continue
            try:
                wanted = plan(whole, style, budget, shares[style.id])
            except InputError as trouble:
                latest.setdefault(style.id, replace(_unplanned(whole, style), dropped=str(trouble)))
                del shares[style.id]
                continue
            made[style.id] = candidate(whole, style.id, style.how, wanted, budget)
            if latest.get(style.id) and latest[style.id].plan == wanted:  # as close as whole blocks of channels get
                del shares[style.id]
                continue
            files[style.id] = whole.files(narrowed(whole, wanted), style.id)
        if not files:
            break
        rows = clock(files)
        for name in files:
            load = budget.load(rows[name])
            now = latest[name] = replace(made[name], measured=rows[name])
            clock.console.say(f"  {name:<16} {_times(now)}, {load:.0%} of the budget")
            if load <= 1 and (name not in best or now.macs > best[name].macs):
                best[name] = now
            if USED <= load <= 1:
                del shares[name]
            else:
                shares[name] = corrected(shares[name], load, AIMS[min(number + 1, len(AIMS) - 1)], at)
    return [best[style.id] if style.id in best else _dropped(latest[style.id]) for style in styles]


def _dropped(one: Candidate) -> Candidate:
    if one.dropped:
        return one
    return replace(one, dropped=f"not within the limits after {len(AIMS)} files: {_times(one)}")


def _unplanned(whole: Whole, style: Style) -> Candidate:
    return Candidate(style.id, whole.net, style.how, None, 0, 0)


def _times(one: Candidate) -> str:
    return ", ".join(f"{row.ms:.3g} ms ({row.low:.3g} to {row.high:.3g}) on {row.device}" for row in one.measured)
