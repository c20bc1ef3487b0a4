"""Charts of one quantity as rows of HTML, so that their text keeps its size and wraps: bars, dots and stacked bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.report.markup import Markup, breakable, join, tag
from edgekit.report.svg import linear, ms

STYLES = 4
"""Number of distinguishable tints of the parts of a stacked bar (``p0`` to ``p3`` in ``_style.css``)."""
FAR = 1.6
"""A whisker or a limit that is this many times further than everything else is cut or left out."""


@dataclass(frozen=True)
class Bar:
    """One bar; p90 and p99 make its whisker."""

    label: str
    value: float
    shown: str
    tone: str
    """CSS class of the precision."""
    ship: bool = False
    p90: float | None = None
    p99: float | None = None
    title: str = ""
    error: tuple[float, float] | None = None
    """Ends of an error bar, shown instead of percentiles."""


@dataclass(frozen=True)
class Dot:
    """One value on a scale that does not start at zero."""

    label: str
    value: float
    shown: str
    tone: str
    ship: bool = False


@dataclass(frozen=True)
class Stack:
    """One bar made of parts."""

    label: str
    parts: tuple[tuple[str, float], ...]
    """Name and milliseconds; a name looks the same in all bars of a chart."""
    total: float
    """What is shown as the whole: measured, so it need not be the sum of the parts."""


def bars(
    rows: Sequence[Bar], summary: str, limit: tuple[float, str] | None = None, styles: Sequence[str] = ()
) -> Markup:
    """Horizontal bars; a whisker extends to p90 (tall tick) and p99, or is an error bar.

    A whisker far longer than the rest is cut and ends in an arrow, so that one outlier does not squash the chart.

    Args:
        rows: top to bottom.
        summary: for a screen reader.
        limit: a value and its name, drawn as a dashed line if it is close to the bars.
        styles: more CSS classes of each row, if they differ.
    """
    most = max(max(r.value, min(r.p90 or 0, 2 * r.value), r.error[1] if r.error else 0) for r in rows) or 1.0
    end = max(min(max(max(r.value, r.p99 or 0) for r in rows), FAR * most), most)
    shown = limit if limit is not None and limit[0] <= FAR * most else None
    end = max(end, shown[0] * 1.02 if shown else 0)
    x = linear((0, end), (0, 100))
    drawn = []
    for i, bar in enumerate(rows):
        marks = [_mark("bar", 0, x(bar.value))] if bar.value else []
        if bar.error is not None:
            low, high = x(max(bar.error[0], 0)), x(bar.error[1])
            marks += [_mark("whisker", low, high - low), _mark("tick", low), _mark("tick", high)]
        elif bar.p90 is not None and bar.p99 is not None:
            start, tip = x(bar.value), x(min(bar.p99, end))
            marks += [_mark("whisker cut" if bar.p99 > end else "whisker", start, tip - start)]
            marks += [_mark("tick", x(bar.p90))] if bar.p90 <= end else []
            marks += [_mark("tick short", tip)] if bar.p99 <= end else []
        marks += [_mark("limit", x(shown[0]))] if shown else []
        look = " ".join((bar.tone, *styles[i : i + 1]))
        drawn.append(_row(bar.label, bar.shown, bar.title, marks, look, bar.ship))
    chart = _chart(summary, drawn)
    return join((chart, lines([("limit", shown[1])]))) if shown else chart


def dots(
    rows: Sequence[Dot], summary: str, reference: tuple[float, str] | None, bound: tuple[float, str] | None
) -> Markup:
    """Values as dots at the end of a line from the reference, on a scale that just holds them all.

    Args:
        rows: top to bottom.
        summary: for a screen reader.
        reference: a value and its name, drawn as a solid line.
        bound: a value and its name, drawn as a dashed line.
    """
    values = [row.value for row in rows] + [each[0] for each in (reference, bound) if each]
    pad = 0.12 * (max(values) - min(values)) or 0.002
    x = linear((min(values) - pad, max(values) + pad), (0, 100))
    drawn = []
    for row in rows:
        at, start = x(row.value), x(reference[0]) if reference else x(row.value)
        marks = [_mark("ref", start)] if reference else []
        marks += [_mark("limit", x(bound[0]))] if bound else []
        marks += [_mark("stem", min(at, start), abs(at - start)), _mark("point", at)]
        drawn.append(_row(row.label, row.shown, "", marks, row.tone, row.ship))
    below = [("ref", reference[1])] if reference else []
    below += [("limit", bound[1])] if bound else []
    return join((_chart(summary, drawn), lines(below)))


def stacks(rows: Sequence[Stack], summary: str) -> Markup:
    """Horizontal stacked bars on one axis, with a legend of their parts."""
    x = linear((0, max(max(sum(v for _, v in each.parts), each.total) for each in rows) or 1.0), (0, 100))
    names = list(dict.fromkeys(name for each in rows for name, _ in each.parts))
    drawn = []
    for each in rows:
        marks, start = [], 0.0
        for name, value in each.parts:
            style = f"part p{names.index(name) % STYLES}"
            marks.append(_mark(style, x(start), x(value), title=f"{name}: {ms(value)} ms"))
            start += value
        drawn.append(_row(each.label, f"{ms(each.total)} ms", "", marks, "", False))
    items = (tag("span", tag("i", class_=f"swatch part p{i % STYLES}"), name) for i, name in enumerate(names))
    return join((_chart(summary, drawn), tag("p", *items, class_="legend")))


def lines(named: Sequence[tuple[str, str]]) -> Markup:
    """Legend of the lines across a chart: style (``ref`` or ``limit``) and name."""
    items = (tag("span", tag("i", class_=f"key {style}"), name) for style, name in named)
    return tag("p", *items, class_="legend") if named else Markup("")


def _chart(summary: str, rows: Sequence[Markup]) -> Markup:
    return tag("div", *rows, class_="bars", role="img", aria_label=summary)


def _row(label: str, shown: str, title: str, marks: Sequence[str], tone: str, ship: bool) -> Markup:
    name = tag("span", breakable(label), " ✓" if ship else "", class_="name")
    return tag(
        "div",
        name,
        tag("span", shown, class_="num"),
        tag("span", *marks, class_="track"),
        class_=" ".join(filter(None, ("row", tone, "ship" if ship else ""))),
        title=title or None,
    )


def _mark(style: str, left: float, width: float | None = None, title: str | None = None) -> Markup:
    place = f"left:{left:.2f}%" if width is None else f"left:{left:.2f}%;width:{max(width, 0):.2f}%"
    return tag("i", class_=style, style=place, title=title)
