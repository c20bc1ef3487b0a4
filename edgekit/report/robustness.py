"""Do compressed files lose more than the float network where images are bad? In words, as a table and as a chart."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.report.charts import WIDTH, tone
from edgekit.report.contents import Report
from edgekit.report.markup import Markup, badge, figure, fold, join, table, tag
from edgekit.report.svg import MINUS, chart, line, linear, percent, signed, text, ticks
from edgekit.scores import Difference, Robustness
from edgekit.types import TORCH_FP32

LEVELS = {1: "slight", 2: "clear", 3: "severe"}
LEAD = (
    "Test images were made worse at the network's input size, as in ImageNet-C (224 px) and CIFAR-10-C (32 px), at "
    "their severities 1, 3 and 5. What counts is how many points of top-1 a file loses, from the clean images to "
    "these, beyond what torch fp32 loses on the same ones. The interval over all corruptions is of 95 %; those of "
    "single ones are wider, so that all of a file hold together. “More” and “less” are said only where an interval "
    "excludes zero."
)


def answer(row: Robustness) -> str:
    """One file in one sentence."""
    if row.excess is None:
        return ""
    found = row.excess
    interval = f"({signed(found.low)} to {signed(found.high)})"
    said = {
        "more": f"loses {found.points:.2f} points more than float on corrupted images {interval}",
        "less": f"loses {-found.points:.2f} points less than float on corrupted images {interval}",
        "": f"as robust as float, as far as these images can tell: {signed(found.points)} points {interval}",
    }[found.side]
    cells = [
        f"{each.corruption} ({LEVELS[each.level]})" for each in row.worse if each.excess and each.excess.side == "more"
    ]
    return f"{row.artifact}: {said}" + (f"; more on {', '.join(cells)}" if cells else "")


def section(report: Report) -> Markup:
    """The fold of the HTML report; empty if no corruptions were asked for."""
    exact, files = _parts(report)
    if exact is None:
        return Markup("")
    more = [row.artifact for row in files if row.excess and row.excess.side == "more"]
    digest = "torch fp32 alone" if not files else "no file is shown to lose more than float"
    digest = f"{' and '.join(more)} lose{'' if len(more) > 1 else 's'} more than float" if more else digest
    parts = [tag("p", LEAD, class_="lead"), tag("ul", *(tag("li", answer(row)) for row in files))]
    parts += [figure("Points lost beyond what float loses", _forest(report, files))] if files else []
    heads = ("corruption", "level", *(row.artifact for row in (exact, *files)))
    rows = [
        (name, level, *(_cell(each, place) for each in (exact, *files)))
        for place, (name, level) in enumerate(_conditions(exact), -1)
    ]
    caption = f"Top-1 on {exact.images:,} images of the {exact.split} split"
    return fold("robustness", "Corrupted images", digest, *parts, table(heads, rows, caption, words=2))


def rows(report: Report) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Heads and cells of the table as text; no cells if no corruptions were asked for."""
    exact, files = _parts(report)
    if exact is None:
        return (), []
    scores = [(row.clean, *(each.top1 for each in row.worse)) for row in (exact, *files)]
    cells = [
        (name, level, *(percent(each[place], 1) for each in scores))
        for place, (name, level) in enumerate(_conditions(exact))
    ]
    return ("corruption", "level", *(row.artifact for row in (exact, *files))), cells


def answers(report: Report) -> list[str]:
    """A sentence for each file."""
    return [answer(row) for row in _parts(report)[1]]


def _parts(report: Report) -> tuple[Robustness | None, Sequence[Robustness]]:
    exact = next((row for row in report.robustness if row.artifact == TORCH_FP32), None)
    return exact, [row for row in report.robustness if row is not exact]


def _conditions(row: Robustness) -> list[tuple[str, str]]:
    return [("none", "—"), *((each.corruption, LEVELS[each.level]) for each in row.worse)]


def _cell(row: Robustness, place: int) -> Markup:
    """A score, and what was lost in excess; `place` -1 is the clean images."""
    if place < 0:
        return join((percent(row.clean, 1),))
    each = row.worse[place]
    if each.excess is None:
        return join((percent(each.top1, 1),))
    mark = badge("more", "failed") if each.excess.side == "more" else ""
    points = f"{signed(each.excess.points)} ({signed(each.excess.low)} to {signed(each.excess.high)})"
    return join((percent(each.top1, 1), " ", mark, tag("small", points)))


def _forest(report: Report, files: Sequence[Robustness]) -> Markup:
    """Each file's excess over all corruptions, and below it at each of them, with intervals."""
    rows: list[tuple[str, Difference, str, bool]] = []
    for each in files:
        file = report.artifact(each.artifact)
        colour = tone(file.precision if file else "")
        rows += [(each.artifact, each.excess, colour, True)] if each.excess else []
        rows += [
            (f"{one.corruption}, {LEVELS[one.level]}", one.excess, colour, False) for one in each.worse if one.excess
        ]
    left, right, step, top = 128, WIDTH - 14, 17, 8
    low, high = min(found.low for _, found, *_ in rows), max(found.high for _, found, *_ in rows)
    pad = max(0.08 * (high - low), 0.25)
    x = linear((min(low, 0) - pad, max(high, 0) + pad), (left, right))
    bottom = top + step * len(rows)
    parts = []
    for value in ticks(min(low, 0) - pad, max(high, 0) + pad):
        shown = f"{value:g}".replace("-", MINUS)
        parts.append(line(x(value), top, x(value), bottom, "grid"))
        parts.append(text(x(value), bottom + 15, shown, class_="tick", text_anchor="middle"))
    parts.append(line(x(0), top, x(0), bottom, "base"))
    for place, (name, found, colour, whole) in enumerate(rows):
        y = top + step * (place + 0.5)
        title = tag("title", f"{name}: {signed(found.points)} points ({signed(found.low)} to {signed(found.high)})")
        mark = tag("circle", title, cx=x(found.points), cy=y, r=5.5 if whole else 3.5, class_=f"dot {colour}")
        parts += [text(0 if whole else 10, y + 4, name, class_="label")]
        parts += [line(x(found.low), y, x(found.high), y, "whisker"), mark]
    axis = "points of top-1; right of 0: more than float"
    parts.append(text(right, bottom + 32, axis, class_="axis", text_anchor="end"))
    return chart(WIDTH, bottom + 38, " ".join(f"{answer(row)}." for row in files), *parts)
