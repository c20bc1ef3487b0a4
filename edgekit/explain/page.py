"""``explain.html``: maps side by side on one page, in the style of the report of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

from edgekit import __version__
from edgekit.data.dataset import Pixels
from edgekit.explain import _pictures
from edgekit.explain.records import JSON, TABLE, Areas, Image, Look, Map, Result, Summary
from edgekit.report.markup import Markup, badge, breakable, fold, join, table, tag, theme, tiles
from edgekit.report.page import page
from edgekit.report.svg import number, percent

SHOWN = 24
"""Images of a section at most."""
AT_RANDOM = 6
METHOD = (
    "A map shows what hiding each of {cells} patches takes from the log odds of the class that float predicts: red "
    "speaks for the class, blue against it. Hidden pixels have the mean that preprocessing subtracts. Each map has its "
    "own scale: colours tell where a network looks, not how strongly. The same code asks float in torch and the files "
    "in their engines (Zeiler and Fergus, 2014; Zintgraf et al., 2017). Grad-CAM (Selvaraju et al., 2017) needs "
    "gradients, which files do not have: it is a second view of float.",
    "Correlation is Spearman's, of a network's map with float's. How low is too low is measured in this run: float's "
    "own map is made again on a grid that is shifted by half a patch. Evidence has moved if a network's map is less "
    "like float's than float's second map is, on this image and on all but the lowest 5 % of images. An image whose "
    "two maps are no more alike than chance is not judged.",
    "Insertion and deletion (Petsiuk et al., 2018) are the areas below the probability of the class while patches are "
    "shown, or hidden, in the order of a map, the most important first. Insertion less deletion says how well a map "
    "names what the network looks at. If float's map does that as well as the network's own, the evidence is the same.",
    "Shares, means and intervals (95 %) are of the images drawn at random. Those that were chosen because they changed "
    "or are wrong are shown, but not counted.",
)


def render(result: Result, pictures: Sequence[Pixels]) -> str:
    """The page as HTML.

    Args:
        result: what was found.
        pictures: its images as the networks see them, uint8 [height, width, channels].
    """
    row = _Rows(result, pictures)
    sections = [
        ("summary", "Summary", _summary(result)),
        ("moved", "Right for another reason", row.section("moved", "Right for another reason", _moved)),
        ("changed", "Most changed", row.section("changed", "Most changed", lambda one: "changed" in one.chosen)),
        ("wrong", "Most wrong", row.section("wrong", "Most wrong", lambda one: "wrong" in one.chosen)),
        ("random", "At random", row.section("random", "At random", lambda one: "sample" in one.chosen, AT_RANDOM)),
        ("method", "Method", theme("method", "Method", _method(result))),
    ]
    created = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    title = tag("div", tag("p", f"edgekit explain, {created}", class_="eyebrow"), tag("h1", breakable(result.name)))
    footer = f"edgekit {__version__}, {created}. All images are in {JSON} and {TABLE}."
    return page(f"{result.name}: edgekit explain", __version__, tag("header", title), sections, footer)


def _moved(one: Image) -> bool:
    return any(look.moved for look in one.looks)


# Numbers -------------------------------------------------------------------------------------------


def _summary(result: Result) -> Markup:
    heading = tag("h2", "Summary", id="summary-h", class_="unseen")
    stick, bad = result.yardstick, any(each.moved for each in result.networks)
    numbers = [
        (f"{result.sampled}", "images explained", f"of {result.available:,} in the {result.split} split"),
        (number(stick.repeat, 2), "correlation of float with itself", "on a shifted grid; median"),
        (number(stick.limit, 2), "limit", "below it evidence has moved"),
        (percent(stick.detects, 0), "would be noticed", "if maps were swapped between images"),
    ]
    parts = [tag("h3", _verdict(result)), tiles(numbers), _networks(result)]
    parts += [tag("p", tag("strong", "Note: "), note, class_="alarm caution") for note in result.notes]
    card = tag("article", *parts, class_="card ships none" if bad or stick.limit is None else "card ships")
    return tag("section", heading, tag("div", card, class_="cards few"), id="summary", aria_labelledby="summary-h")


def _verdict(result: Result) -> str:
    if result.yardstick.limit is None:
        return "Nothing can be said: float's own evidence does not repeat on a shifted grid."
    moved = [each for each in result.networks if each.moved]
    if not moved:
        if any(each.judged for each in result.networks):
            return "No compressed network is right for another reason."
        return "Nothing can be said: there is no image of float's class to judge."
    worst = max(moved, key=lambda each: each.moved / each.judged)
    return f"{worst.network} is right for another reason on {worst.moved} of {worst.judged} images."


def _networks(result: Result) -> Markup:
    rows = [
        (
            "torch-fp32", percent(result.top1, 1), "—", "—", _two(result.yardstick.repeat), "—",
            _two(result.own.score), "—", "—", "—",
        ),
        *map(_network, result.networks),
    ]  # fmt: skip
    heads = (
        "network", "top-1", "agrees with float", "probability lost", "correlation, median", "lowest",
        "score of its own map", "of float's map", "gap", "right for another reason",
    )  # fmt: skip
    where = (
        f"Left of correlation: over {result.looked_at:,} images, else over the sample; score: insertion less deletion"
    )
    return table(heads, rows, where)


def _network(each: Summary) -> tuple[str, ...]:
    share = "nothing to judge"
    if each.share is not None:
        ends = f"{100 * each.share[1]:.1f} to {100 * each.share[2]:.1f} %"
        share = tag("span", f"{each.moved} of {each.judged}", tag("small", ends))
    gap = "—"
    if each.gap is not None:
        gap = tag("span", _two(each.gap[0]), tag("small", f"{_two(each.gap[1])} to {_two(each.gap[2])}"))
    return (
        join((breakable(each.network), tag("small", f"{each.engine} {each.version}"))),
        percent(each.top1, 1),
        percent(each.agreement, 1),
        f"{_two(100 * each.drop)} points",
        _two(each.correlation),
        _two(each.lowest),
        _score(each.own),
        _score(each.by_float),
        gap,
        share,
    )


def _two(value: float | None) -> str:
    return "—" if value is None else f"{round(value, 2) + 0.0:.2f}"  # no minus before a zero


def _score(areas: Areas | None) -> str:
    return "—" if areas is None else _two(areas.score)


def _method(result: Result) -> Markup:
    down, across = result.patches
    words = [tag("p", text.format(cells=f"{down} x {across}")) for text in METHOD]
    drawn = any(one.grad_cam for one in result.images)
    cam = f'Grad-CAM is of the output of "{result.grad_cam}".' if drawn else f"Grad-CAM is left out: {result.grad_cam}."
    words.append(tag("p", cam))
    words.append(tag("p", f"Images were drawn with seed {result.seed}; all of this took {result.seconds:.0f} s."))
    return fold("how", "How to read this", "what maps, correlations and areas mean", *words)


# Pictures ------------------------------------------------------------------------------------------


class _Rows:
    """Images with their maps, each a row of pictures."""

    def __init__(self, result: Result, pictures: Sequence[Pixels]) -> None:
        self._result, self._pictures = result, pictures

    def section(self, ident: str, heading: str, belongs: Callable[[Image], bool], most: int = SHOWN) -> Markup:
        """The rows of the images that belong; nothing without any."""
        places = [place for place, one in enumerate(self._result.images) if belongs(one)]
        if first := _FIRST.get(ident):
            places.sort(key=lambda place: first(self._result.images[place]))
        if not places:
            return Markup("")
        rows = [self._row(self._result.images[place], self._pictures[place]) for place in places[:most]]
        said = tag("p", _about(ident, len(places), len(rows)), class_="muted")
        head = tag("h2", heading, id=f"{ident}-h")
        sheet = tag("div", *rows, class_="sheet")
        return tag("section", head, said, sheet, id=ident, aria_labelledby=f"{ident}-h")

    def _row(self, one: Image, pixels: Pixels) -> Markup:
        right = one.predicted == one.label
        said = f"float: {one.predicted} ({one.probability:.0%})" + ("" if right else f", it is {one.label}")
        shown = [_figure(_pictures.plain(pixels), one.path, one.path, one.label)]
        if one.grad_cam:
            shown.append(self._map(pixels, one.grad_cam, one, "Grad-CAM, float", said))
        shown.append(self._map(pixels, one.evidence, one, "float", f"{said}; repeats with {one.repeat:.2f}"))
        for look in one.looks:
            shown.append(self._map(pixels, look.evidence, one, look.network, _look(one, look), *_marks(one, look)))
        return tag("div", *shown, class_="thumbs")

    def _map(self, pixels: Pixels, values: Map, one: Image, name: str, said: str, *marks: Markup) -> Markup:
        return _figure(_pictures.overlaid(pixels, values), f"What {name} looks at in {one.path}", name, said, *marks)


def _least_alike(one: Image) -> float:
    return min(look.correlation for look in one.looks if look.moved)


def _most_changed(one: Image) -> float:
    return -max((look.predicted != one.predicted) + abs(look.drop) for look in one.looks)


_FIRST: dict[str, Callable[[Image], float]] = {"moved": _least_alike, "changed": _most_changed}
"""The smallest comes first in these sections."""


def _about(ident: str, count: int, shown: int) -> str:
    more = f" The first {shown} of {count} are shown." if shown < count else ""
    return {
        "moved": "The class of float, but other evidence, the least alike first: does it make sense?",
        "changed": "Other classes than float's, then the largest changes of the probabilities.",
        "wrong": "The least probability for the true class by a network that is wrong.",
        "random": "The first of the random sample, to compare with.",
    }[ident] + more


def _look(one: Image, look: Look) -> str:
    said = f"{look.predicted}" if look.predicted != one.predicted else f"{look.probability:.0%}"
    return f"{said}; correlation {look.correlation:.2f}"


def _marks(one: Image, look: Look) -> Iterator[Markup]:
    if look.moved:
        yield badge("moved", "failed")
    if look.predicted != one.predicted:
        yield badge("another class", "falls")


def _figure(source: str, alt: str, name: str, said: str, *marks: Markup) -> Markup:
    image = tag("img", src=source, alt=alt, loading="lazy")
    return tag("figure", image, tag("figcaption", breakable(name), tag("small", said), *marks), class_="thumb")
