"""``tune.html``: the outcome of a search on one page, in the style of the report of a run."""

from __future__ import annotations

from edgekit import __version__
from edgekit.report.markup import Markup, breakable, figure, fold, join, table, tag, theme, tiles
from edgekit.report.page import page
from edgekit.report.svg import percent
from edgekit.tune import _charts, findings, replay
from edgekit.tune.records import Result

METHOD = (
    "Accuracy is that of validation images; test images decide nothing. It is the best of many trials on the same "
    "images, so it is a little too good: what the test images say of the chosen recipe is what to expect."
)
EXPLAINED = (
    "Of the variance of the first target among good trials, the share that each key explains alone (PED-ANOVA, "
    "Watanabe et al., 2023). With few trials it is a hint."
)


def render(result: Result, created: str) -> str:
    """The page as HTML.

    Args:
        result: of the search.
        created: when, in words.
    """
    slices = tag("div", *(_slice(result, key) for key in result.space), class_="cards few")
    sections = [
        ("verdict", "Outcome", _outcome(result)),
        ("trials", "Trials", theme("trials", "Trials", _trials(result))),
        ("keys", "Keys", theme("keys", "What each key does", slices)),
        ("method", "Method", theme("method", "Method", _method(result))),
    ]
    footer = f"edgekit {__version__}, {created}. 1 MB is 1,000,000 bytes."
    return page(f"{result.name}: edgekit tune", __version__, _header(result, created), sections, footer)


def _header(result: Result, created: str) -> Markup:
    title = tag("div", tag("p", f"edgekit tune, {created}", class_="eyebrow"), tag("h1", breakable(result.name)))
    facts = [
        ("objective", ", ".join(target.name for target in result.targets)),
        ("trials", f"{result.settled} of {result.asked}"),
        ("sampler", result.sampler),
        ("pruner", result.pruner),
    ]
    return tag("header", title, tag("dl", *(tag("div", tag("dt", k), tag("dd", breakable(v))) for k, v in facts)))


def _outcome(result: Result) -> Markup:
    heading = tag("h2", "Outcome", id="verdict-h", class_="unseen")
    large = "the best one" if len(result.targets) == 1 else "on the Pareto front"
    note = f"Line: the best so far. Large: {large}. Hollow: stopped early."
    pictures = [_picture("History", _charts.history(result), note)]
    if result.targets[0].kind == "accuracy":
        note = "Up and to the left is better. Filled: on the Pareto front of all objectives."
        pictures = [
            _picture(f"Accuracy and {target.name}", _charts.front(result, place), note)
            for place, target in enumerate(result.targets[1:], start=1)
        ] + pictures
    cards = tag("div", _card(result), *pictures, class_="cards few")
    return tag("section", heading, cards, id="verdict", aria_labelledby="verdict-h")


def _card(result: Result) -> Markup:
    best = result.best
    if best is None:
        return tag("article", tag("h3", "No trial has a result yet"), tag("p", result.said), class_="card ships none")
    one = len(result.targets) == 1
    numbers = [
        (findings.number(value, target), target.name, of)
        for value, target, of in zip(best.values, result.targets, best.of, strict=True)
    ]
    settings = [(key, findings.short(value)) for key, value in best.settings.items()]
    command = tag("code", f"edgekit run {replay.BEST}")
    return tag(
        "article",
        tag("h3", "Best: " if one else f"Best in {result.targets[0].name}: ", tag("em", f"trial {best.number}")),
        tag("p", result.said, class_="reason"),
        tiles(numbers),
        table(("key", "value"), settings, f"The settings of trial {best.number}", words=2),
        tag("p", "Repeat it: ", command, "" if one else f"; the others are in {replay.FRONT}/", class_="muted"),
        class_="card ships",
    )


def _picture(title: str, drawn: Markup, note: str) -> Markup:
    return (
        tag("article", tag("h3", title), drawn, tag("p", note, class_="note"), class_="card answer") if drawn else drawn
    )


def _trials(result: Result) -> Markup:
    keys, rows = list(result.space), findings.ranked(result)
    cells = [
        (f"{one.number}", *findings.settings(one, keys), findings.state(one), *findings.values(one, result.targets))
        for one in rows
    ]
    heads = ("trial", *keys, "how it ended", *(target.name for target in result.targets))
    ship = [place for place, one in enumerate(rows) if one.number in result.front]
    caption = "; ".join(f"{target}: {of}" for target, of in findings.measured_on(result)) or "Nothing was measured"
    return tag("article", table(heads, cells, caption, words=2 + len(keys), ship=ship, stack=True), class_="card")


def _slice(result: Result, key: str) -> Markup:
    share = result.importance.get(key)
    note = f"explains {percent(share, 0)} of the variance" if share is not None else ""
    drawn = _charts.slice_of(result, key)
    return tag("article", figure(key, drawn, tag("p", note, class_="note")), class_="card answer") if drawn else drawn


def _method(result: Result) -> Markup:
    measured = [tag("p", tag("strong", f"{target}: "), of) for target, of in findings.measured_on(result)]
    lead = [tag("p", METHOD, class_="lead")] + ([tag("p", EXPLAINED, class_="lead")] if result.importance else [])
    where = tag("p", tag("strong", "storage: "), breakable(result.storage))
    return fold("how", "Search", "what the numbers are", join((*lead, *measured, where)))
