"""``fit.html``: the outcome of a search on one page, in the style of the report of a run."""

from __future__ import annotations

from edgekit import __version__
from edgekit.fit import _cells
from edgekit.fit._cells import NONE, Cell, Place, interval
from edgekit.fit.records import Candidate, Result
from edgekit.report import charts
from edgekit.report.charts import Point
from edgekit.report.markup import Markup, badge, breakable, fold, join, table, tag, theme, tiles
from edgekit.report.page import page
from edgekit.report.svg import allowed, ms, percent

TONE = "tone-series"
SMALL, LARGE = 4.0, 6.0
"""Radii of marks: of a network that was dropped, and of one that was not."""
ROLES = {"circle": "pruned", "square": "the whole network", "diamond": "another network or resolution, unpruned"}
MODEL = (
    "The time of a network is predicted before its file is made: a sum over its layers, learnt from random narrower "
    "networks that were timed as whole files beside the whole one. Each of these was also predicted from the others: "
    "that is how far off the model is where nothing was measured."
)
METHOD = (
    "Times in one column or chart come from the same engine, version and number of threads. Files of one session take "
    "turns, so that drift affects them alike; between sessions a machine may be a little faster or slower. Intervals "
    "are 95 %. Predicted times choose what is tried; measured ones decide. What ships was measured again after "
    "training, in a session of its own. Validation top-1 is that of the float network, test top-1 that of the file "
    "that ships, in its engine."
)


def render(result: Result, name: str, created: str, report: str = "", replay: str = "") -> str:
    """The page as HTML.

    Args:
        result: of the search.
        name: of the recipe.
        created: when, in words.
        report: link to the report of the chosen network's run; empty if there is none.
        replay: the recipe that replays it; empty if there is none.
    """
    sections = [
        ("verdict", "Outcome", _outcome(result, report, replay)),
        ("candidates", "Candidates", theme("candidates", "Candidates", _candidates(result))),
        ("method", "Method", theme("method", "Method", _widths(result), _model(result), _how(result))),
    ]
    footer = f"edgekit {__version__}, {created}. 1 MB is 1,000,000 bytes."
    return page(f"{name}: edgekit fit", __version__, _header(result, name, created), sections, footer)


def _header(result: Result, name: str, created: str) -> Markup:
    title = tag("div", tag("p", f"edgekit fit, {created}", class_="eyebrow"), tag("h1", breakable(name)))
    whole = result.whole
    facts = [
        ("network", str(whole.net)),
        ("budget", f"{result.max_ms:g} ms, p{result.percentile}"),
        ("top-1", allowed(result.max_drop)),
        ("parameters", f"{whole.parameters / 1e6:.3g} M"),
        ("multiply-adds", f"{whole.macs / 1e6:.3g} M"),
    ]
    strip = tag("dl", *(tag("div", tag("dt", key), tag("dd", breakable(value))) for key, value in facts))
    return tag("header", title, strip)


def _outcome(result: Result, report: str, replay: str) -> Markup:
    heading = tag("h2", "Outcome", id="verdict-h", class_="unseen")
    pictures = [_predicted(result, at) for at in _devices(result)] if _cells.is_dry(result) else []
    pictures = pictures or [_front(result, at) for at in _cells.places(result)]
    cards = tag("div", _card(result, report, replay), *pictures, _cost(result), class_="cards few")
    return tag("section", heading, cards, id="verdict", aria_labelledby="verdict-h")


def _card(result: Result, report: str, replay: str) -> Markup:
    """What ships, in words and numbers."""
    if _cells.is_dry(result):
        title, words = tag("h3", "Predicted, not trained"), _cells.dry_words(result)
    elif result.holds:
        title, words = tag("h3", "Ship ", tag("em", result.chosen)), result.said
    else:
        title, words = tag("h3", "Nothing is within every limit"), result.said or "The search has not ended."
    parts = [title, tag("p", words, class_="reason")]
    parts += [_shipped(result)] if result.shipped else []
    whole, now = result.top1
    if whole is not None and now is not None:
        lost = f"{100 * (whole - now):.2f} points lost, {result.max_drop:g} allowed".replace("-", _cells.MINUS)
        parts.append(
            tiles([(percent(now), "test top-1", lost), (percent(whole), "test top-1", "of the whole float network")])
        )
    links = [tag("a", "The report of its run", href=report)] if report else []
    links += [join(("Replay it without a device: ", tag("code", f"edgekit run {replay}")))] if replay else []
    parts += [tag("p", *_between(links, ". "), class_="muted")] if links else []
    return tag("article", *parts, class_="card ships" if result.holds else "card ships none")


def _between(parts: list[Markup], comma: str) -> list[str]:
    return [part for each in parts for part in (comma, each)][1:]


def _shipped(result: Result) -> Markup:
    rows = []
    for row in result.shipped:
        at = _cells.place(row)
        rows.append(
            (
                join((breakable(row.device), " ", badge(row.kind))),
                at.words,
                _cell(Cell(ms(row.ms), interval(row.low, row.high))),
                percent(row.high / result.max_ms, 1),
                f"{row.file_mb:.3g}",
                f"{row.rss_mb:.3g}" if row.rss_mb else NONE,
            )
        )
    heads = ("device", "what runs", f"p{result.percentile}, ms", "upper bound, of the budget", "file, MB", "memory, MB")
    what = "What ships" if result.holds else f"The files of {result.chosen}"
    caption = f"{what}, measured again after training, with 95 % intervals"
    return table(heads, rows, caption, words=2, stack=True)


def _front(result: Result, at: Place) -> Markup:
    """Accuracy against time at one place."""
    points = []
    for one in _cells.networks(result):
        row = _cells.row_at(one, at)
        if row is not None and one.accuracy is not None:
            ends = interval(row.low, row.high)
            time = f"{at.kind} {ms(row.ms)} ms{f' ({ends})' if ends else ''}"
            said = f"{one.id}: {time}, validation top-1 {percent(one.accuracy)} after {one.trained[-1].epochs} epochs"
            points.append(_point(one, result, row.ms, one.accuracy, (row.low, row.high), said))
    heading = _heading("Accuracy against latency", at.device, at.kind)
    where = tag("p", f"{at.words}. Validation top-1 of the float network.", class_="muted")
    if not points:
        none = tag("p", "No network was both timed here and scored on validation images.", class_="muted")
        return tag("article", heading, where, none, class_="card answer")
    summary = f"Validation top-1 against {at.kind} p{result.percentile} of {len(points)} networks on {at.device}: "
    summary += "; ".join(point.title for point in points)
    axes = f"{at.kind} p{result.percentile} latency, ms", "validation top-1, %"
    return tag("article", heading, where, _picture(points, result, summary, axes, at.kind), class_="card answer")


def _predicted(result: Result, at: Place) -> Markup:
    """What is predicted for several budgets on one device."""
    points = []
    for one in result.front:
        guess = _cells.prediction(one, at.device)
        if guess is not None:
            share = one.macs / result.whole.macs
            said = f"{one.id}: predicted {ms(guess.ms)} ms ({interval(guess.low, guess.high)}), "
            said += f"{percent(share, 1)} of the multiply-adds"
            points.append(_point(one, result, guess.ms, share, (guess.low, guess.high), said))
    heading = _heading("Predicted front", at.device, "predicted")
    where = tag("p", f"{at.words}. Nothing in this chart was measured.", class_="muted")
    if not points:
        return tag("article", heading, tag("p", "No narrower network could be planned.", class_="muted"), class_="card")
    summary = f"Multiply-adds that are left against predicted latency on {at.device}: "
    summary += "; ".join(point.title for point in points)
    axes = f"predicted p{result.percentile} latency, ms", "multiply-adds left, %"
    return tag("article", heading, where, _picture(points, result, summary, axes, "estimated"), class_="card answer")


def _devices(result: Result) -> list[Place]:
    """The first place of each device: the one that its model is of."""
    return list({at.device: at for at in reversed(_cells.places(result))}.values())[::-1]


def _point(one: Candidate, result: Result, time: float, height: float, ends: tuple[float, float], said: str) -> Point:
    ships, hollow = one.id == result.chosen and result.holds, bool(one.dropped)
    radius = SMALL if hollow else LARGE
    shape, around = _cells.kind(one, result), ends if ends[0] < ends[1] else None
    return Point(_cells.label(one, result), time, height, TONE, shape, ships, radius, around, hollow, said)


def _picture(points: list[Point], result: Result, summary: str, axes: tuple[str, str], kind: str) -> Markup:
    limit = result.max_ms, f"budget {result.max_ms:g} ms"
    marks = dict.fromkeys(point.mark for point in points)
    items = [tag("span", tag("i", class_=f"mark {mark}"), ROLES[mark]) for mark in marks]
    lead = "Up and to the left is better. "
    lead += (
        "Small hollow marks were dropped on the way, with their last score; ↓: below the axis. "
        if any(p.hollow for p in points)
        else ""
    )
    lead += "✓ ships. " if any(p.ship for p in points) else ""
    lead += "Lines through marks are 95 % intervals. " if any(p.interval for p in points) else ""
    lead += "A mark that would cover another is moved, and a thin line leads to its place."
    drawn = tag("div", charts.scatter(points, summary, limit=limit, words=axes), class_=f"kind-{kind}")
    return join((drawn, tag("p", *items, class_="legend"), tag("p", lead, class_="note")))


def _heading(words: str, device: str, kind: str) -> Markup:
    return tag("h3", f"{words} on ", breakable(device), " ", badge(kind, "estimated" if kind == "predicted" else ""))


def _cost(result: Result) -> Markup:
    spent = result.spent
    each = [
        (str(spent.files), "files timed", "on each device, by the last call"),
        (_span(spent.device_seconds), "on devices", "by the last call, without the measurement of what ships"),
        (_span(spent.training_seconds), "of training", "of pruned candidates, all rungs, and of whole networks"),
        (_span(spent.seconds), "in all", "for the last call"),
    ]
    return tag("article", tag("h3", "What the search cost"), tiles(each), class_="card answer")


def _span(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 600
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )


def _candidates(result: Result) -> Markup:
    rows, ship = [], []
    for number, one in enumerate(_cells.networks(result)):
        words = (one.id, str(one.net), one.how, _cells.state(one, result))
        rows.append((*words, *(_cell(cell) for cell in _cells.cells(one, result))))
        ship += [number] if one.id == result.chosen and result.holds else []
    heads = ("network", "of", "how it was chosen", "how it ended", *_cells.heads(result))
    where = "; ".join(f"{at.device}: {at.words}, {at.kind}" for at in _cells.places(result))
    caption = f"p{result.percentile} of the times of an inference, with 95 % intervals. {where}"
    return tag("article", table(heads, rows, caption, words=4, ship=ship, stack=True), class_="card")


def _cell(cell: Cell) -> Markup:
    return join((cell.main, tag("small", cell.more) if cell.more else ""))


def _widths(result: Result) -> Markup:
    one = next((each for each in _cells.networks(result) if each.id == result.chosen), None)
    if one is None or one.plan is None:
        return Markup("")
    rows = [
        (layer, str(one.plan.of[layer]), str(len(kept)), percent(len(kept) / one.plan.of[layer], 0))
        for layer, kept in one.plan.kept.items()
    ]
    lead = "Each layer stands for those that can only be pruned with it; layers that stay whole are left out."
    if one.plan.dropped:
        lead += f" These residual blocks are gone: {', '.join(one.plan.dropped)}."
    listed = table(("layer", "channels", "kept", ""), rows, f"Output channels of {one.id}")
    digest = f"{percent(one.macs / result.whole.macs, 0)} of the multiply-adds and "
    digest += f"{percent(one.parameters / result.whole.parameters, 0)} of the parameters are left"
    return fold("widths", "Widths", digest, tag("p", lead, class_="lead"), listed)


def _model(result: Result) -> Markup:
    if not result.models:
        return Markup("")
    listed = [tag("p", tag("strong", f"{device}: "), f"{said}.") for device, said in result.models.items()]
    return fold(
        "model", "Latency model", "what predicts times, and how far off it is", tag("p", MODEL, class_="lead"), *listed
    )


def _how(result: Result) -> Markup:
    listed = [tag("p", tag("strong", f"{at.device}: "), f"{at.words} ", badge(at.kind)) for at in _cells.places(result)]
    return fold("how", "Measuring", "what the numbers are", tag("p", METHOD, class_="lead"), *listed)
