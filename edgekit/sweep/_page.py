"""``sweep.html``: the outcome of a sweep on one page, in the style of the report of a run."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.disk.run_directory import ORDER
from edgekit.measurements import Kind
from edgekit.report import charts
from edgekit.report.charts import MARKS, Point
from edgekit.report.markup import Markup, badge, breakable, fold, join, table, tag, theme
from edgekit.report.page import page
from edgekit.report.svg import megabytes, ms, percent, threads
from edgekit.sweep import findings
from edgekit.sweep.records import Combination, Result, Row

TONE = "tone-series"
DASH = "\N{EN DASH}"
SMALL, LARGE = 4.0, 6.5
"""Radii of marks: of other rows, and of those on the front."""
EXPLAINED = (
    "Each row is what the run of a combination would ship there: the file that its verdict chose. Top-1 is that of the "
    "file in its engine; its interval (Wilson, 95 %) says how far other images of the same kind may be off, so rows "
    "whose intervals overlap may differ by chance. The best of many combinations is a little too good on the images "
    "that chose it. On the front is what no other row of the device beats in top-1, p50 and size together. Times that "
    "were measured, emulated and estimated are never compared with each other."
)


def render(result: Result, created: str) -> str:
    """The page as HTML.

    Args:
        result: of the sweep.
        created: when, in words.
    """
    tables = [_rows(result, device, kind) for device, kind in result.places]
    sections = [
        ("verdict", "Outcome", _outcome(result)),
        ("numbers", "Numbers", theme("numbers", "Numbers", *tables)),
        ("combinations", "Combinations", theme("combinations", "Combinations", _all(result))),
        ("method", "Method", theme("method", "Method", _method(result))),
    ]
    footer = f"edgekit {result.edgekit}, {created}. 1 MB is 1,000,000 bytes."
    return page(f"{result.name}: edgekit sweep", result.edgekit, _header(result, created), sections, footer)


def _header(result: Result, created: str) -> Markup:
    title = tag("div", tag("p", f"edgekit sweep, {created}", class_="eyebrow"), tag("h1", breakable(result.name)))
    facts = [("combinations", str(len(result.combinations))), ("done", str(result.count("done")))]
    facts += [(key, f"{len(values)} values") for key, values in result.varied.items()]
    return tag("header", title, tag("dl", *(tag("div", tag("dt", k), tag("dd", breakable(v))) for k, v in facts)))


def _outcome(result: Result) -> Markup:
    heading = tag("h2", "Outcome", id="verdict-h", class_="unseen")
    look = "card ships" if result.rows else "card ships none"
    title = "What came out" if result.rows else "No combination has a result yet"
    card = tag("article", tag("h3", title), tag("p", result.said, class_="reason"), class_=look)
    fronts = [_front(result, device, kind) for device, kind in result.places]
    cards = tag("div", card, *fronts, class_="cards few")
    return tag("section", heading, cards, id="verdict", aria_labelledby="verdict-h")


def _front(result: Result, device: str, kind: Kind | None) -> Markup:
    """Accuracy against time on one device; against size where nothing was measured."""
    rows = result.at(device, kind)
    points = [_point(result, row) for row in rows]
    across = f"{kind} p50, ms" if kind else "size, MB"
    summary = f"Test top-1 against {across} of {len(points)} combinations: " + "; ".join(p.title for p in points)
    drawn = charts.scatter(points, summary, words=(across, f"{rows[0].split} top-1, %"))
    lead = "Up and to the left is better. Filled: on the Pareto front of top-1, p50 and size. "
    lead += "Lines through marks are 95 % intervals. A mark that would cover another is moved."
    if not kind:
        lead = lead.replace("top-1, p50 and size", "top-1 and size")
    legend = [
        tag("span", tag("i", class_=f"mark {MARKS.get(engine, 'circle')}"), engine)
        for engine in dict.fromkeys(row.engine for row in rows)
        if engine
    ]
    body = [tag("div", drawn, class_=f"kind-{kind}"), tag("p", *legend, class_="legend") if legend else Markup("")]
    return tag("article", _title(device, kind), *body, tag("p", lead, class_="note"), class_="card answer")


def _title(device: str, kind: Kind | None) -> Markup:
    if not kind:
        return tag("h3", "Top-1 against size: nothing was measured")
    return tag("h3", "Pareto front on ", breakable(device), " ", badge(kind))


def _point(result: Result, row: Row) -> Point:
    one = next(each for each in result.combinations if each.number == row.combination)
    return Point(
        label=str(row.combination),
        ms=row.bytes / 1e6 if row.p50_ms is None else row.p50_ms,
        top1=row.top1,
        tone=TONE,
        mark=MARKS.get(row.engine, "circle"),
        radius=LARGE if row.front else SMALL,
        interval=row.p50_ci,
        band=row.top1_ci,
        hollow=not row.front,
        title=f"{findings.outcome(row)}: {findings.words(one)}",
    )


def _rows(result: Result, device: str, kind: Kind | None) -> Markup:
    """What ships on one device, by combination."""
    keys, rows = list(result.varied), result.at(device, kind)
    by_number = {one.number: one for one in result.combinations}
    cells = [
        (
            str(row.combination),
            *findings.settings(by_number[row.combination], keys),
            join((row.artifact, tag("small", _engine(row)) if row.engine else "")),
            join((percent(row.top1), tag("small", f"{percent(row.top1_ci[0], 1)}{DASH}{percent(row.top1_ci[1], 1)}"))),
            "—" if row.p50_ms is None else join((ms(row.p50_ms), tag("small", _ends(row)))),
            megabytes(row.bytes),
        )
        for row in rows
    ]
    images = ", ".join(dict.fromkeys(f"{row.images} {row.split} images" for row in rows))
    place = f"{findings.machine(result, device)}. " if device else ""
    caption = f"{place}Highlighted: on the front. p50 of one inference, top-1 on {images}, 95 % intervals"
    heads = ("combination", *keys, "ships", "top-1", f"{kind} p50, ms" if kind else "p50, ms", "size")
    ship = [place for place, row in enumerate(rows) if row.front]
    return tag("article", table(heads, cells, caption, words=2 + len(keys), ship=ship, stack=True), class_="card")


def _engine(row: Row) -> str:
    return f"{row.engine} {row.engine_version}, {threads(row.threads)}"


def _ends(row: Row) -> str:
    return f"{ms(row.p50_ci[0])}{DASH}{ms(row.p50_ci[1])}" if row.p50_ci else ""


def _all(result: Result) -> Markup:
    """Every combination, how it ended, and whose work it shares."""
    keys = list(result.varied)
    ended = {name for one in result.combinations for name, _, _ in one.stages}
    stages = [name for name in ORDER if name in ended]
    cells = [
        (
            str(one.number),
            *findings.settings(one, keys),
            f"{one.state}{f': {one.why}' if one.why else ''}",
            *_shares(one, stages),
        )
        for one in result.combinations
    ]
    caption = "Seconds of each stage, or the combination that it is shared with"
    listed = table(("combination", *keys, "how it ended", *stages), cells, caption, words=2 + len(keys), stack=True)
    return tag("article", listed, class_="card")


def _shares(one: Combination, stages: Sequence[str]) -> list[str]:
    done = {name: f"{seconds:.1f} s" if first == one.number else f"as {first}" for name, first, seconds in one.stages}
    return [done.get(name, "—") for name in stages]


def _method(result: Result) -> Markup:
    parts = [tag("p", EXPLAINED, class_="lead"), tag("p", result.method, class_="lead")]
    return fold("how", "The numbers", "what they are, and how they were taken", *parts)
