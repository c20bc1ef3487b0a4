"""The report's charts as inline SVG, about 460 units wide so that their text stays legible on a phone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgekit.report import svg
from edgekit.report.markup import Markup, join, tag
from edgekit.report.svg import chart, line, linear, path, text, ticks
from edgekit.types import Epoch

WIDTH = 460
LETTER = 7.9
"""Average width of a letter at the charts' largest font size, 14.5 units on a phone."""
MOVES = sorted(
    ((dx, dy) for dx in range(-120, 121, 3) for dy in range(-120, 121, 3)),
    key=lambda move: (abs(move[1]) + 2.5 * abs(move[0]), move),
)
"""Where a mark may go that would cover another: the nearest first, and rather up or down than aside."""
MARKS = {
    "litert": "circle",
    "tflite_runtime": "circle",
    "onnxruntime": "square",
    "openvino": "diamond",
    "executorch": "diamond",
}


@dataclass(frozen=True)
class Point:
    """One dot of the scatter plot."""

    label: str
    ms: float
    top1: float
    tone: str
    """CSS class of the precision."""
    mark: str
    """``circle``, ``square`` or ``diamond``, by engine."""
    ship: bool = False
    radius: float = 6.0
    """Grows with the file."""
    interval: tuple[float, float] | None = None
    """Of `ms`, drawn as a line."""
    hollow: bool = False
    """Of no account to the front."""
    title: str = ""
    """What it says when it is pointed at; empty for its label and its numbers."""
    band: tuple[float, float] | None = None
    """Interval of `top1`, drawn as a line."""


def tone(precision: str) -> str:
    """CSS class that colours a precision."""
    return f"tone-{precision}" if precision in ("fp32", "fp16", "int8") else "tone-other"


def pareto(points: Sequence[Point]) -> list[Point]:
    """Points that no other point beats in both latency and accuracy, fastest first."""
    front: list[Point] = []
    for point in sorted((p for p in points if not p.hollow), key=lambda p: (p.ms, -p.top1)):
        if not front or point.top1 > front[-1].top1:
            front.append(point)
    return front


def scatter(
    points: Sequence[Point],
    summary: str,
    reference: float | None = None,
    bound: float | None = None,
    limit: tuple[float, str] | None = None,
    words: tuple[str, str] = ("p50 latency, ms", "top-1, %"),
) -> Markup:
    """Accuracy (up) against latency (right) with the Pareto front.

    Args:
        points: top-1, or another share, as 0..1; latency in ms.
        summary: for a screen reader.
        reference: top-1 of torch fp32.
        bound: the lowest top-1 that may be shipped.
        limit: a latency and its name; with one, the axis starts where the points do, and all of them are named. Hollow
            points far below the others are at the lower edge, with an arrow and their height.
        words: titles of the x and y axes.
    """
    left, right, top, bottom, height = 50, WIDTH - 14, 16, 278, 324
    least = _least(points)
    ends = [end for p in points for end in (p.band or (p.top1,))]
    heights = [100 * v for v in (*(max(end, least) for end in ends), reference, bound) if v is not None]
    pad = max(0.18 * (max(heights) - min(heights)), 0.25)
    low, high = min(heights) - pad, min(max(heights) + pad, 100 + pad / 2)
    first, last = _reach(points, limit)
    x = linear((first, last), (left, right))
    y = linear((low, high), (bottom, top))
    parts = axes(x, y, ticks(first, last), ticks(low, min(high, 100)), left, right, bottom)
    parts.append(text(right, bottom + 38, words[0], class_="axis", text_anchor="end"))
    parts.append(text(left - 42, top - 4, words[1], class_="axis"))
    boxes: list[tuple[float, float, float, float]] = []
    for value, name, shift in ((reference, "torch fp32", -5), (bound, "lowest allowed", 14)):
        if value is not None:
            parts.append(line(left, y(100 * value), right, y(100 * value), "guide"))
            parts.append(text(left + 4, y(100 * value) + shift, name, class_="note"))
            width = 4 + LETTER * len(name)
            boxes.append((left, y(100 * value) + shift - 11, left + width, y(100 * value) + shift + 2))
    if limit is not None:
        at, width = x(limit[0]), LETTER * len(limit[1])
        start = at + 4 if at + 4 + width <= right else at - 4 - width
        parts += [line(at, top, at, bottom, "limit"), text(start, bottom - 6, limit[1], class_="note")]
        boxes.append((start, bottom - 17, start + width, bottom - 4))
    front = pareto(points)
    parts += [_front([(x(p.ms), y(100 * p.top1)) for p in front], right)] if front else []
    level_of = {point: y(100 * max(point.top1, least)) for point in points}
    for point in points:
        if point.interval is not None:
            level = level_of[point]
            parts.append(line(x(point.interval[0]), level, x(min(point.interval[1], last)), level, "whisker"))
            parts += [line(x(v), level - 3, x(v), level + 3, "whisker") for v in point.interval if v <= last]
        if point.band is not None:
            parts.append(line(x(point.ms), y(100 * point.band[0]), x(point.ms), y(100 * point.band[1]), "whisker"))
    ordered = sorted(points, key=lambda p: (not p.ship, p not in front, p.ms))
    true = [(x(p.ms), level_of[p]) for p in ordered]
    reach = [p.radius + (6 if p.ship else 1) for p in ordered]
    places = apart(true, reach, (left + 2, top, right, bottom - 2))
    for (px, py), (tx, ty) in zip(places, true, strict=True):
        if (px, py) != (tx, ty):
            parts += [line(tx, ty, px, py, "stem"), tag("circle", cx=tx, cy=ty, r=1.5, class_="truth")]
    boxes += [(px - r - 2, py - r - 2, px + r + 2, py + r + 2) for (px, py), r in zip(places, reach, strict=True)]
    for point, place in zip(ordered, places, strict=True):
        parts.append(_mark(point, *place))
    for point, place, r in zip(ordered, places, reach, strict=True):
        if point in front or limit is not None:
            below = f" ↓ {100 * point.top1:.1f} %" if point.top1 < least else ""
            label = f"{point.label}{below}{' ✓' if point.ship else ''}"
            parts.append(_place(label, *place, r, boxes, (left, top - 4, right, bottom), point.ship))
    return chart(WIDTH, height, summary, *parts)


def _least(points: Sequence[Point]) -> float:
    """The lowest height to show: hollow points far below the others would squash these."""
    solid = [p.top1 for p in points if not p.hollow]
    if not solid:
        return 0.0
    return min(solid) - 1.5 * (max(solid) - min(solid)) - 0.01


def _reach(points: Sequence[Point], limit: tuple[float, str] | None) -> tuple[float, float]:
    """Ends of the axis of latencies."""
    last = 1.15 * max(p.ms for p in points)
    if limit is None:
        return 0.0, last
    ends = [end for p in points for end in (p.interval or (p.ms, p.ms))] + [limit[0]]
    pad = 0.12 * (max(ends) - min(ends)) or 0.1 * limit[0]
    return max(0.0, min(ends) - pad), max(ends) + pad


def _front(places: Sequence[tuple[float, float]], right: float) -> Markup:
    steps = [places[0]]
    for before, after in itertools.pairwise(places):
        steps += [(after[0], before[1]), after]
    return path([*steps, (right, steps[-1][1])], "front")


def apart(
    places: Sequence[tuple[float, float]], radii: Sequence[float], area: tuple[float, float, float, float]
) -> list[tuple[float, float]]:
    """Move circles that would cover another one, the first ones last, as little as possible and rather up or down.

    Args:
        places: centres.
        radii: their radii.
        area: left, top, right and bottom of where they may go.
    """
    done: list[tuple[float, float]] = []
    for (x, y), r in zip(places, radii, strict=True):
        free = (
            (x + dx, y + dy)
            for dx, dy in MOVES
            if (dx, dy) == (0, 0) or (area[0] <= x + dx - r and x + dx + r <= area[2])
            if (dx, dy) == (0, 0) or (area[1] <= y + dy - r and y + dy + r <= area[3])
            if all(math.hypot(x + dx - a, y + dy - b) >= r + s for (a, b), s in zip(done, radii, strict=False))
        )
        done.append(next(free, (x, y)))
    return done


def _mark(point: Point, x: float, y: float) -> str:
    title = tag("title", point.title or f"{point.label}: {svg.ms(point.ms)} ms, top-1 {100 * point.top1:.2f} %")
    look = f"dot {point.tone}{' hollow' if point.hollow else ''}"
    angular = point.mark in ("square", "diamond")
    r = 0.9 * point.radius if angular else point.radius
    ring = tag("circle", cx=x, cy=y, r=point.radius + 5, class_="ring") if point.ship else ""
    if angular:
        turn = f"rotate(45 {svg.number(x)} {svg.number(y)})" if point.mark == "diamond" else None
        box = {"x": x - r, "y": y - r, "width": 2 * r, "height": 2 * r, "rx": 1.5, "transform": turn}
        dot = tag("rect", title, **box, class_=look)
    else:
        dot = tag("circle", title, cx=x, cy=y, r=r, class_=look)
    return join((ring, dot))


def _place(
    words: str,
    x: float,
    y: float,
    r: float,
    boxes: list[tuple[float, float, float, float]],
    area: tuple[float, float, float, float],
    ship: bool,
) -> str:
    """Put a label beside its dot where it covers nothing; if there is no such place, drop it (the table has it)."""
    width = LETTER * len(words)
    above, below = -r - 7, r + 15
    for dx, dy in (
        (r + 5, 4),
        (-width / 2, above),
        (-width / 2, below),
        (-r - 5 - width, 4),
        (0, above),
        (0, below),
        (-width, above),
        (-width, below),
        (0, below + 15),
        (0, above - 15),
    ):
        box = (x + dx, y + dy - 11, x + dx + width, y + dy + 3)
        inside = box[0] >= area[0] and box[1] >= area[1] and box[2] <= area[2] and box[3] <= area[3]
        if inside and not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in boxes):
            boxes.append(box)
            return text(x + dx, y + dy, words, class_="label ship" if ship else "label")
    return ""


def axes(
    x: svg.Scale, y: svg.Scale, xs: list[float], ys: list[float], left: float, right: float, bottom: float
) -> list[str]:
    """Grid lines, numbers and the base line of a chart."""
    parts = []
    for value in ys:
        parts.append(line(left, y(value), right, y(value), "grid"))
        parts.append(text(left - 8, y(value) + 4, f"{value:g}", class_="tick", text_anchor="end"))
    for value in xs:
        parts.append(text(x(value), bottom + 18, f"{value:g}", class_="tick", text_anchor="middle"))
    return [*parts, line(left, bottom, right, bottom, "base")]


def curves(history: Sequence[Epoch], quantity: str, summary: str) -> Markup:
    """Training and validation curves of ``loss`` or ``accuracy``, with the phases marked.

    A curve with a missing or non-finite value is left out.
    """
    factor = 100.0 if quantity == "accuracy" else 1.0
    lines = {}
    for name in ("train", "val"):
        values = [getattr(epoch, f"{name}_{quantity}") for epoch in history]
        if values and all(value is not None and math.isfinite(value) for value in values):
            lines[name] = [factor * value for value in values]
    if not lines:
        return tag("p", f"No finite {quantity} was recorded.", class_="muted")
    least, most = (0.0, math.inf) if quantity == "loss" else (None, 100.0)
    return over_epochs(history, lines, quantity, summary, least, most)


def over_epochs(
    history: Sequence[Epoch],
    lines: Mapping[str, Sequence[float]],
    quantity: str,
    summary: str,
    least: float | None = 0.0,
    most: float = math.inf,
) -> Markup:
    """Curves of one quantity, with the phases of the training marked.

    Args:
        history: the epochs.
        lines: finite values by the curve's name, one for each epoch; one or two curves.
        quantity: what they are.
        summary: for a screen reader.
        least: where the axis begins; None: a little below the lowest value.
        most: where it ends at the latest.
    """
    left, right, top, bottom, height = 50, WIDTH - 62, 26, 208, 250
    everything = [value for values in lines.values() for value in values]
    pad = 0.06 * (max(everything) - min(everything)) or 0.05 * abs(max(everything)) or 0.5
    low = min(everything) - pad if least is None else least
    high = min(max(everything) + pad, most)
    epochs = [epoch.epoch for epoch in history]
    x = linear((epochs[0], epochs[-1]), (left + 10, right - 6))
    y = linear((low, high), (bottom, top))
    whole = sorted({int(v) for v in ticks(epochs[0], epochs[-1]) if v == int(v)} | {epochs[0], epochs[-1]})
    parts = _phases(history, x, left, right, top, bottom)
    parts += axes(x, y, [float(v) for v in whole], ticks(low, high), left, right, bottom)
    parts.append(text(right, bottom + 34, "epoch", class_="axis", text_anchor="end"))
    ends = {name: y(values[-1]) for name, values in lines.items()}
    if len(ends) == 2 and abs(ends["train"] - ends["val"]) < 14:
        middle, sign = sum(ends.values()) / 2, 1 if ends["train"] >= ends["val"] else -1
        ends = {"train": middle + 7 * sign, "val": middle - 7 * sign}
    for name, values in lines.items():
        parts.append(path([(x(e), y(v)) for e, v in zip(epochs, values, strict=True)], f"curve {name}"))
        for epoch, value in zip(epochs, values, strict=True):
            title = tag("title", f"epoch {epoch}, {name} {quantity}: {value:.4g}".replace("  ", " "))
            parts.append(
                tag("circle", title, cx=x(epoch), cy=y(value), r=2.5 if len(epochs) < 40 else 1, class_=f"knot {name}")
            )
        parts.append(text(right + 4, ends[name] + 4, f"{name} {_short(values[-1])}".strip(), class_="label"))
    return chart(WIDTH, height, summary, *parts)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _phases(history: Sequence[Epoch], x: svg.Scale, left: float, right: float, top: float, bottom: float) -> list[str]:
    heads = [epoch.epoch for epoch in history if epoch.phase == "head"]
    if not heads or len(heads) == len(history):
        return []
    edge = (x(heads[-1]) + x(heads[-1] + 1)) / 2
    return [
        tag("rect", x=left, y=top, width=edge - left, height=bottom - top, class_="phase"),
        text(left + 6, top - 5, "head only", class_="note"),
        text(edge + 6, top - 5, "all layers", class_="note"),
        line(edge, top - 12, edge, bottom, "guide"),
    ]


def heatmap(confusion: Sequence[Sequence[int]], labels: Sequence[str], summary: str) -> Markup:
    """Confusion matrix: true classes in rows, predicted ones in columns, shaded by the share of the row."""
    n = len(labels)
    cell = 46 if n <= 8 else 34 if n <= 12 else 20
    names = [label if len(label) <= 16 else f"{label[:15]}…" for label in labels]
    letter = LETTER if n <= 12 else 5.6
    side = letter * max(map(len, names)) + 32
    top = 0.72 * side + 16
    parts = [
        text(side + n * cell / 2, 11, "predicted", class_="axis", text_anchor="middle"),
        tag(
            "text",
            "true",
            transform=f"translate(11 {top + n * cell / 2:.0f}) rotate(-90)",
            class_="axis",
            text_anchor="middle",
        ),
    ]
    for i, name in enumerate(names):
        turn = f"translate({side + (i + 0.5) * cell + 4:.1f} {top - 6:.1f}) rotate(-45)"
        parts.append(text(side - 6, top + (i + 0.5) * cell + 4, name, class_="tick", text_anchor="end"))
        parts.append(tag("text", name, transform=turn, class_="tick"))
    for i, row in enumerate(confusion):
        for j, count in enumerate(row):
            share = count / max(sum(row), 1)
            title = tag("title", f"{labels[i]} taken for {labels[j]}: {count} of {sum(row)}")
            x, y = side + j * cell, top + i * cell
            box = {"x": x + 1, "y": y + 1, "width": cell - 2, "height": cell - 2, "rx": 3}
            parts.append(tag("rect", class_="cell", **box))
            if count:
                parts.append(tag("rect", title, class_="heat", fill_opacity=0.08 + 0.92 * share, **box))
                if n <= 12:
                    shade = "count high" if share > 0.6 else "count"
                    parts.append(text(x + cell / 2, y + cell / 2 + 4, str(count), class_=shade, text_anchor="middle"))
    width = side + n * cell + 0.72 * side
    return chart(width, top + n * cell + 4, summary, *parts, class_=f"chart heatmap{' wide' if n > 12 else ''}")
