"""``find-lr.html``: the losses over the rates, in the style of the report of a run."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from edgekit import __version__
from edgekit.find_lr.records import Result
from edgekit.report.charts import WIDTH
from edgekit.report.markup import Markup, breakable, details, figure, table, tag, tiles
from edgekit.report.page import page
from edgekit.report.svg import chart, dot, line, linear, path, text, ticks

ABOVE = 1.6
"""Multiple of the first loss above which the chart is cut off."""


def render(result: Result) -> str:
    """The page as HTML."""
    created = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    title = tag("div", tag("p", f"edgekit find-lr, {created}", class_="eyebrow"), tag("h1", breakable(result.recipe)))
    key = tiles(
        [
            (f"{result.suggestion:.2g}", "suggested train.lr", "a tenth of the rate of the lowest loss"),
            (f"{result.lowest:.2g}", "rate of the lowest loss", f"it fell by {result.fell:.0%}"),
            (f"{result.steepest:.2g}", "rate of the steepest fall", ""),
        ]
    )
    lead = f"{result.optimizer}, batches of {result.batch}; {result.ended}. The line is the mean of neighbouring steps."
    rows = [(f"{step.rate:.3g}", f"{step.loss:.4f}", f"{step.smooth:.4f}") for step in result.steps]
    numbers = details("Numbers of this chart", table(("rate", "loss", "mean"), rows, "Losses over the learning rates"))
    picture = figure("Loss over the learning rate", _chart(result), numbers)
    body = tag("section", key, tag("p", lead, class_="lead"), picture)
    sections, footer = [("rates", "Rates", body)], f"edgekit {__version__}, {created}."
    return page(f"{result.recipe}: edgekit find-lr", __version__, tag("header", title), sections, footer)


def _chart(result: Result) -> Markup:
    left, right, top, bottom = 50, WIDTH - 14, 14, 250
    steps, first = result.steps, result.steps[0].smooth
    high = min(max(step.loss for step in steps), ABOVE * first)
    low = min(step.loss for step in steps)
    pad = 0.06 * (high - low) or 0.1
    x = linear((math.log10(steps[0].rate), math.log10(steps[-1].rate)), (left + 8, right - 8))
    y = linear((low - pad, high + pad), (bottom, top))
    parts = []
    for value in ticks(low - pad, high + pad):
        parts.append(line(left, y(value), right, y(value), "grid"))
        parts.append(text(left - 8, y(value) + 4, f"{value:g}", class_="tick", text_anchor="end"))
    for power in range(math.ceil(math.log10(steps[0].rate)), math.floor(math.log10(steps[-1].rate)) + 1):
        parts.append(text(x(power), bottom + 18, f"1e{power}", class_="tick", text_anchor="middle"))
    parts.append(line(left, bottom, right, bottom, "base"))
    for value, name, anchor, away in (
        (result.suggestion, "suggested", "end", -4),
        (result.lowest, "lowest", "start", 4),
    ):
        at, said = x(math.log10(value)), f"{name} {value:.2g}"
        parts.append(line(at, top, at, bottom, "limit"))
        parts.append(text(at + away, top + 10, said, class_="note", text_anchor=anchor))
    for step in steps:
        if step.loss <= high:
            said = f"rate {step.rate:.2g}: loss {step.loss:.3f}"
            parts.append(dot(x(math.log10(step.rate)), y(step.loss), 2, "knot train", said))
    curve = [(x(math.log10(step.rate)), y(min(step.smooth, high + pad))) for step in steps]
    parts += [path(curve, "curve val"), text(right, bottom + 36, "learning rate", class_="axis", text_anchor="end")]
    summary = f"Loss over the learning rate: lowest at {result.lowest:.2g}, suggested {result.suggestion:.2g}"
    return chart(WIDTH, bottom + 42, summary, *parts)
