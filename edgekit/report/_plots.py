"""More charts: distributions and lines, in the style of `edgekit.report.charts`."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from edgekit.report.charts import WIDTH, axes
from edgekit.report.markup import Markup, tag
from edgekit.report.svg import chart, line, linear, ms, path, text, ticks

BINS = 64
STYLES = 8
"""Number of distinguishable dashes of lines (``d0`` to ``d7`` in ``_style.css``)."""


@dataclass(frozen=True)
class Spread:
    """One distribution of times."""

    label: str
    samples: tuple[float, ...]
    tone: str
    ship: bool = False


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    name: str
    points: tuple[tuple[float, float], ...]
    tone: str
    style: int = 0
    """Index of its dash pattern."""
    marked: frozenset[float] = field(default=frozenset())
    """Positions on the x axis with a special mark."""


def histogram(samples: Sequence[float], low: float, high: float, bins: int = BINS) -> list[int]:
    """Counts in `bins` logarithmic bins from `low` to `high`; the last bin also counts larger values."""
    if high <= low:
        return [len(samples)] + [0] * (bins - 1)
    edges = [low * (high / low) ** (i / bins) for i in range(1, bins)]
    counts = [0] * bins
    for value in samples:
        counts[bisect_left(edges, value)] += 1
    return counts


def ridges(rows: Sequence[Spread], summary: str) -> Markup:
    """One histogram per row on a shared logarithmic axis, which ends at the largest 99th percentile of all rows.

    Slower samples are counted in the last bin of their row.
    """
    row, right, top = 46, WIDTH - 14, 2
    ordered = [sorted(each.samples) for each in rows]
    low = min(values[0] for values in ordered) * 0.98
    high = max(values[min(int(0.99 * len(values)), len(values) - 1)] for values in ordered) * 1.02
    x = linear((math.log(low), math.log(high)), (0, right))
    bottom = top + row * len(rows)
    parts = []
    for value in _logarithmic(low, high):
        parts.append(line(x(math.log(value)), top, x(math.log(value)), bottom, "grid"))
        parts.append(text(x(math.log(value)), bottom + 15, f"{value:g}", class_="tick", text_anchor="middle"))
    for i, (each, values) in enumerate(zip(rows, ordered, strict=True)):
        base = top + (i + 1) * row - 3
        counts = histogram(values, low, high)
        most = max(counts)
        width = right / BINS
        shape = [(0.0, float(base))]
        for k, count in enumerate(counts):
            shape += [(k * width, base - 25 * count / most), ((k + 1) * width, base - 25 * count / most)]
        shape.append((right, base))
        points = " ".join(f"{a:.0f},{b:.0f}" for a, b in _thin(shape))
        title = tag("title", f"{each.label}: {ms(values[0])} to {ms(values[-1])} ms, {len(values):,} samples")
        parts.append(tag("polygon", title, points=points, class_=f"bar {each.tone}"))
        parts.append(line(0, base, right, base, "base"))
        name = f"{each.label} ✓" if each.ship else each.label
        parts.append(text(0, base - 31, name, class_="label ship" if each.ship else "label"))
    parts.append(text(right, bottom + 30, "ms, logarithmic", class_="axis", text_anchor="end"))
    return chart(WIDTH, bottom + 36, summary, *parts)


def _thin(shape: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same outline without points inside level stretches."""
    kept = shape[:1]
    for before, point, after in zip(shape, shape[1:], shape[2:], strict=False):
        if not round(before[1]) == round(point[1]) == round(after[1]):
            kept.append(point)
    return [*kept, shape[-1]]


def _logarithmic(low: float, high: float) -> list[float]:
    """Round values within [low, high]: 1, 2 and 5 times powers of ten, or even steps if that gives fewer than 3."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    values = [round(value, 12) for value in values if low <= value <= high]
    return values if len(values) >= 3 else ticks(low, high)


def lines(series: Sequence[Series], summary: str, xs: Sequence[float], words: tuple[str, str]) -> Markup:
    """Lines over the same few x values, named at their right end if there is room.

    Args:
        series: at least one.
        summary: for a screen reader.
        xs: ticks of the x axis.
        words: titles of the x and y axes.
    """
    left, right, top, bottom, height = 50, WIDTH - 150, 24, 226, 266
    most = max(y for each in series for _, y in each.points)
    x, y = linear((min(xs), max(xs)), (left + 8, right - 8)), linear((0, 1.05 * most), (bottom, top))
    parts = axes(x, y, list(xs), ticks(0, 1.05 * most), left, right, bottom)
    parts.append(text(right, bottom + 36, words[0], class_="axis", text_anchor="end"))
    parts.append(text(left - 42, top - 10, words[1], class_="axis"))
    taken: list[float] = []
    for each in sorted(series, key=lambda s: s.points[-1][1]):
        parts.append(path([(x(a), y(b)) for a, b in each.points], f"series {each.tone} d{each.style % STYLES}"))
        for a, b in each.points:
            title = tag("title", f"{each.name}, {words[0]} {a:g}: {ms(b)} {words[1].split(', ')[-1]}")
            marked = a in each.marked
            shape = "knot hot" if marked else "knot"
            parts.append(tag("circle", title, cx=x(a), cy=y(b), r=5 if marked else 3, class_=f"{shape} {each.tone}"))
        place = y(each.points[-1][1]) + 4
        if all(abs(place - other) >= 13 for other in taken):
            taken.append(place)
            name = each.name if len(each.name) <= 22 else f"{each.name[:21]}…"
            parts.append(text(x(each.points[-1][0]) + 9, place, name, class_="label"))
    return chart(WIDTH, height, summary, *parts)
