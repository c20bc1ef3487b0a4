"""The pictures of a search as inline SVG: its history, and what each key does."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from typing import Any

from edgekit.report import charts
from edgekit.report.charts import Point
from edgekit.report.markup import Markup, tag
from edgekit.report.svg import Scale, chart, linear, path, text, ticks
from edgekit.tune import findings
from edgekit.tune.records import Result, Target, Trial

TONE = "tone-series"
LEFT, RIGHT, TOP, BOTTOM, HEIGHT = 50, charts.WIDTH - 14, 22, 198, 240
WIDE = 14
"""Letters of a value's name below a chart."""


def history(result: Result) -> Markup:
    """The first target of each trial, and the best so far as a line; hollow: stopped early."""
    target = result.targets[0]
    shown = [(one, height) for one in result.trials if (height := _height(one, target)) is not None]
    if not shown:
        return Markup("")
    summary = f"{target.name} of {len(shown)} trials in the order of their numbers"
    last = max(one.number for one, _ in shown)
    x = linear((0, max(last, 1)), (LEFT + 10, RIGHT - 8))
    y, heights = _heights([height for _, height in shown])
    parts = charts.axes(x, y, [t for t in ticks(0, max(last, 1)) if t == int(t)], heights, LEFT, RIGHT, BOTTOM)
    parts += _titles(target, "trial")
    best = list(itertools.accumulate((h for one, h in shown if one.values), max if target.largest else min))
    places = [
        (x(one.number), y(h)) for (one, _), h in zip([each for each in shown if each[0].values], best, strict=True)
    ]
    steps = [corner for before, after in itertools.pairwise(places) for corner in (before, (after[0], before[1]))]
    parts += [path([*steps, *places[-1:]], "front")] if places else []
    parts += [_dot(x(one.number), y(height), one, result) for one, height in shown]
    return chart(charts.WIDTH, HEIGHT, summary, *parts)


def slice_of(result: Result, key: str) -> Markup:
    """The first target against the values of one key."""
    target, choice = result.targets[0], result.space[key]
    shown = [(one, h) for one in result.trials if key in one.settings and (h := _height(one, target)) is not None]
    if not shown:
        return Markup("")
    x, marks = _across(choice)
    y, heights = _heights([height for _, height in shown])
    parts = charts.axes(x, y, [], heights, LEFT, RIGHT, BOTTOM) + _titles(target, key)
    parts += [text(x(at), BOTTOM + 18, name, class_="tick", text_anchor="middle") for at, name in marks]
    places = {json.dumps(value): place for place, value in enumerate(choice)} if isinstance(choice, list) else {}
    for one, height in shown:
        value = one.settings[key]
        parts.append(_dot(x(places[json.dumps(value)] if places else value), y(height), one, result))
    return chart(charts.WIDTH, HEIGHT, f"{target.name} of {len(shown)} trials against {key}", *parts)


def front(result: Result, place: int) -> Markup:
    """Accuracy against another target; filled marks are on the front of all targets.

    Args:
        result: whose first target is the accuracy.
        place: of the other target.
    """
    target, scale = result.targets[place], 1e6 if result.targets[place].unit == "bytes" else 1.0
    points = [
        Point(
            f"{one.number}",
            one.values[place] / scale,
            one.values[0],
            TONE,
            "circle",
            radius=6.0 if one.number in result.front else 4.0,
            hollow=one.number not in result.front,
            title=findings.line(one, result.targets),
        )
        for one in result.trials
        if one.values
    ]
    if not points:
        return Markup("")
    summary = f"Validation top-1 against {target.name} of {len(points)} trials"
    words = f"{target.name}, {'MB' if target.unit == 'bytes' else target.unit}", "validation top-1, %"
    return charts.scatter(points, summary, words=words)


def _height(one: Trial, target: Target) -> float | None:
    """Of a trial in a chart: its value, or, if it was stopped early, its last score."""
    if one.values:
        return _scaled(one.values[0], target)
    if one.state == "pruned" and one.epochs:
        return _scaled(list(one.epochs.values())[-1], target)
    return None


def _scaled(value: float, target: Target) -> float:
    return {"share": 100 * value, "ms": value, "bytes": value / 1e6}[target.unit]


def _heights(values: Sequence[float]) -> tuple[Scale, list[float]]:
    pad = 0.06 * (max(values) - min(values)) or 0.5
    low, high = max(min(values) - pad, 0.0), max(values) + pad
    return linear((low, high), (BOTTOM, TOP)), ticks(low, high)


def _across(choice: Any) -> tuple[Scale, list[tuple[float, str]]]:
    """The scale of a key's values, and where which of them stand."""
    ends = LEFT + 30, RIGHT - 30
    if isinstance(choice, list):
        names = [value if isinstance(value, str) else json.dumps(value) for value in choice]
        short = [name if len(name) <= WIDE else f"{name[: WIDE - 1]}…" for name in names]
        every = math.ceil(len(names) * (WIDE / 2) * 8 / (ends[1] - ends[0]))
        scale = linear((0, max(len(names) - 1, 1)), ends)
        return scale, [(float(place), name) for place, name in enumerate(short) if place % every == 0]
    low, high = float(choice["low"]), float(choice["high"])
    if not choice.get("log"):
        return linear((low, high), ends), [(at, f"{at:g}") for at in ticks(low, high)]
    inner = linear((math.log(low), math.log(high)), ends)
    powers = [10.0**e for e in range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)]
    marks = powers if len(powers) > 1 else [low, high]
    return lambda value: inner(math.log(value)), [(at, f"{at:g}") for at in marks]


def _titles(target: Target, across: str) -> list[str]:
    unit = {"share": "validation top-1, %", "ms": f"{target.name}, ms", "bytes": f"{target.name}, MB"}[target.unit]
    return [
        text(RIGHT, BOTTOM + 36, across, class_="axis", text_anchor="end"),
        text(LEFT - 42, TOP - 10, unit, class_="axis"),
    ]


def _dot(x: float, y: float, one: Trial, result: Result) -> Markup:
    chosen = one.number in result.front
    look = f"dot {TONE}{'' if one.values else ' hollow'}"
    return tag(
        "circle", tag("title", findings.line(one, result.targets)), cx=x, cy=y, r=6.0 if chosen else 4.0, class_=look
    )
