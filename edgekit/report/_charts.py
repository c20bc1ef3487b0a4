"""The report's charts as inline SVG, about 460 units wide so that their text stays legible on a phone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.report import svg
from edgekit.report.markup import Markup, join, tag
from edgekit.report.svg import chart, line, linear, path, text, ticks
from edgekit.types import Epoch

WIDTH = 460
LETTER = 6.6
"""Average width of a letter at the charts' font size of 12 px."""
MARKS = {"litert": "circle", "tflite_runtime": "circle", "onnxruntime": "square"}


@dataclass(frozen=True)
class Point:
    """One dot of the scatter plot."""

    label: str
    ms: float
    top1: float
    tone: str
    """CSS class of the precision."""
    mark: str
    """``circle`` or ``square``, by engine."""
    ship: bool = False
    radius: float = 6.0
    """Grows with the file."""


@dataclass(frozen=True)
class Bar:
    """One bar; p90 and p99 make its whisker."""

    label: str
    value: float
    shown: str
    tone: str
    ship: bool = False
    p90: float | None = None
    p99: float | None = None
    title: str = ""
    error: tuple[float, float] | None = None
    """Ends of an error bar, shown instead of percentiles."""


def tone(precision: str) -> str:
    """CSS class that colours a precision."""
    return f"tone-{precision}" if precision in ("fp32", "fp16", "int8") else "tone-other"


def pareto(points: Sequence[Point]) -> list[Point]:
    """Points that no other point beats in both latency and accuracy, fastest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.ms, -p.top1)):
        if not front or point.top1 > front[-1].top1:
            front.append(point)
    return front


def scatter(
    points: Sequence[Point], summary: str, reference: float | None = None, bound: float | None = None
) -> Markup:
    """Accuracy (up) against latency (right) with the Pareto front.

    Args:
        points: top-1 as 0..1, latency in ms.
        summary: for a screen reader.
        reference: top-1 of torch fp32.
        bound: the lowest top-1 that may be shipped.
    """
    left, right, top, bottom, height = 50, WIDTH - 14, 16, 278, 324
    heights = [100 * v for v in (*(p.top1 for p in points), reference, bound) if v is not None]
    pad = max(0.18 * (max(heights) - min(heights)), 0.25)
    low, high = min(heights) - pad, min(max(heights) + pad, 100 + pad / 2)
    x = linear((0, 1.15 * max(p.ms for p in points)), (left, right))
    y = linear((low, high), (bottom, top))
    parts = axes(x, y, ticks(0, 1.15 * max(p.ms for p in points)), ticks(low, min(high, 100)), left, right, bottom)
    parts.append(text(right, bottom + 38, "p50 latency, ms", class_="axis", text_anchor="end"))
    parts.append(text(left - 42, top - 4, "top-1, %", class_="axis"))
    boxes: list[tuple[float, float, float, float]] = []
    for value, words, shift in ((reference, "torch fp32", -5), (bound, "lowest allowed", 14)):
        if value is not None:
            parts.append(line(left, y(100 * value), right, y(100 * value), "guide"))
            parts.append(text(left + 4, y(100 * value) + shift, words, class_="note"))
            width = 4 + LETTER * len(words)
            boxes.append((left, y(100 * value) + shift - 11, left + width, y(100 * value) + shift + 2))
    front = pareto(points)
    steps = [(x(front[0].ms), y(100 * front[0].top1))]
    for before, after in itertools.pairwise(front):
        steps += [(x(after.ms), y(100 * before.top1)), (x(after.ms), y(100 * after.top1))]
    parts.append(path([*steps, (right, steps[-1][1])], "front"))
    boxes += [(x(p.ms) - 8, y(100 * p.top1) - 8, x(p.ms) + 8, y(100 * p.top1) + 8) for p in points]
    for point in sorted(points, key=lambda p: p.ship):
        parts.append(_mark(point, x(point.ms), y(100 * point.top1)))
    for point in sorted(front, key=lambda p: not p.ship):
        words = f"{point.label} ✓" if point.ship else point.label
        parts.append(_place(words, x(point.ms), y(100 * point.top1), boxes, (left, top - 4, right, bottom), point.ship))
    return chart(WIDTH, height, summary, *parts)


def _mark(point: Point, x: float, y: float) -> str:
    title = tag("title", f"{point.label}: {svg.ms(point.ms)} ms, top-1 {100 * point.top1:.2f} %")
    r = 0.9 * point.radius if point.mark == "square" else point.radius
    ring = tag("circle", cx=x, cy=y, r=point.radius + 5, class_="ring") if point.ship else ""
    if point.mark == "square":
        dot = tag("rect", title, x=x - r, y=y - r, width=2 * r, height=2 * r, rx=1.5, class_=f"dot {point.tone}")
    else:
        dot = tag("circle", title, cx=x, cy=y, r=r, class_=f"dot {point.tone}")
    return join((ring, dot))


def _place(
    words: str,
    x: float,
    y: float,
    boxes: list[tuple[float, float, float, float]],
    area: tuple[float, float, float, float],
    ship: bool,
) -> str:
    """Put a label beside its dot where it covers nothing; if there is no such place, drop it (the table has it)."""
    width = LETTER * len(words)
    for dx, dy in (
        (14, 4),
        (-width / 2, -15),
        (-width / 2, 25),
        (-14 - width, 4),
        (6, -15),
        (6, 25),
        (6, 40),
        (6, -30),
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
    parts = []
    for value in ys:
        parts.append(line(left, y(value), right, y(value), "grid"))
        parts.append(text(left - 8, y(value) + 4, f"{value:g}", class_="tick", text_anchor="end"))
    for value in xs:
        parts.append(text(x(value), bottom + 18, f"{value:g}", class_="tick", text_anchor="middle"))
    return [*parts, line(left, bottom, right, bottom, "base")]


def bars(rows: Sequence[Bar], summary: str, limit: tuple[float, str] | None = None) -> Markup:
    """Horizontal bars, each with its name above; its whisker extends to p90 (tall tick) and p99, or is an error bar.

    A whisker far longer than the rest is cut and ends in an arrow, so that one outlier does not squash the chart.

    Args:
        rows: top to bottom.
        summary: for a screen reader.
        limit: a value and its name, drawn as a dashed line if it is close to the bars.
    """
    row, right = 40, WIDTH - 14
    most = max(max(r.value, r.p90 or 0, r.error[1] if r.error else 0) for r in rows)
    end = max(min(max(max(r.value, r.p99 or 0) for r in rows), 1.6 * most), most)
    shown = limit if limit is not None and limit[0] <= 1.6 * most else None
    end = max(end, shown[0] * 1.04 if shown else 0)
    x = linear((0, end), (0, right))
    top = 20 if shown else 4
    bottom = top + len(rows) * row
    parts = []
    if shown:
        parts.append(line(x(shown[0]), 16, x(shown[0]), bottom, "limit"))
        anchor = "end" if x(shown[0]) > WIDTH / 2 else "start"
        parts.append(text(x(shown[0]), 11, shown[1], class_="note limit-note", text_anchor=anchor))
    for i, bar in enumerate(rows):
        y = top + i * row
        mid = y + 24
        parts.append(
            text(0, y + 13, f"{bar.label} ✓" if bar.ship else bar.label, class_="label ship" if bar.ship else "label")
        )
        parts.append(text(WIDTH, y + 13, bar.shown, class_="value", text_anchor="end"))
        title = tag("title", bar.title or f"{bar.label}: {bar.shown}")
        parts.append(
            tag("rect", title, x=0, y=mid - 5, width=max(x(bar.value), 1), height=10, rx=2, class_=f"bar {bar.tone}")
        )
        if bar.error is not None:
            parts.append(line(x(bar.error[0]), mid, x(bar.error[1]), mid, "whisker"))
            parts += [line(x(value), mid - 6, x(value), mid + 6, "whisker") for value in bar.error]
        elif bar.p90 is not None and bar.p99 is not None:
            tip = x(min(bar.p99, end))
            parts.append(line(x(bar.value), mid, tip, mid, "whisker"))
            parts.append(line(x(min(bar.p90, end)), mid - 6, x(min(bar.p90, end)), mid + 6, "whisker"))
            if bar.p99 > end:
                parts.append(path([(tip - 5, mid - 4), (tip, mid), (tip - 5, mid + 4)], "whisker"))
            else:
                parts.append(line(tip, mid - 3, tip, mid + 3, "whisker"))
    return chart(WIDTH, bottom, summary, *parts)


def curves(history: Sequence[Epoch], quantity: str, summary: str) -> Markup:
    """Training and validation curves of ``loss`` or ``accuracy``, with the phases marked.

    A curve with a missing or non-finite value is left out.
    """
    left, right, top, bottom, height = 50, WIDTH - 62, 26, 208, 250
    factor = 100.0 if quantity == "accuracy" else 1.0
    lines = {}
    for name in ("train", "val"):
        values = [getattr(epoch, f"{name}_{quantity}") for epoch in history]
        if values and all(value is not None and math.isfinite(value) for value in values):
            lines[name] = [factor * value for value in values]
    if not lines:
        return tag("p", f"No finite {quantity} was recorded.", class_="muted")
    everything = [value for values in lines.values() for value in values]
    pad = 0.06 * (max(everything) - min(everything)) or 0.5
    low = 0.0 if quantity == "loss" else min(everything) - pad
    high = max(everything) + pad if quantity == "loss" else min(max(everything) + pad, 100.0)
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
            title = tag("title", f"epoch {epoch}, {name} {quantity}: {value:.4g}")
            parts.append(
                tag("circle", title, cx=x(epoch), cy=y(value), r=2.5 if len(epochs) < 40 else 1, class_=f"knot {name}")
            )
        parts.append(text(right + 4, ends[name] + 4, f"{name} {values[-1]:.3g}", class_=f"label end-{name}"))
    return chart(WIDTH, height, summary, *parts)


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
