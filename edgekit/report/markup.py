"""HTML and SVG tags that escape by default: only the output of `tag` counts as markup; other strings are text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape


class Markup(str):
    """Text that is already HTML."""

    __slots__ = ()


def tag(name: str, *children: str, **attributes: object) -> Markup:
    """One element. Children that are not `Markup` are escaped, and so are attribute values; None drops an attribute.

    A trailing underscore is dropped from attribute names (``class_``); other underscores become hyphens.
    """
    parts = [name]
    for key, value in attributes.items():
        if value is not None:
            shown = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
            parts.append(f'{key.rstrip("_").replace("_", "-")}="{escape(shown)}"')
    return Markup(f"<{' '.join(parts)}>{join(children)}</{name}>")


def join(children: Iterable[str]) -> Markup:
    """The pieces concatenated; plain text is escaped."""
    return Markup("".join(child if isinstance(child, Markup) else escape(child, quote=False) for child in children))


def breakable(name: str) -> Markup:
    """A name that a narrow column may break after ``/``, ``_`` and ``.``, but not inside a word."""
    return Markup(re.sub(r"([/_.])(?=\w)", r"\1<wbr>", escape(name, quote=False)))


def prose(words: str) -> Markup:
    """Text in which `backticks` set code."""
    pieces = words.split("`")
    if len(pieces) % 2 == 0:  # one is left over: not meant as code
        return join((words,))
    return join(tag("code", piece) if i % 2 else piece for i, piece in enumerate(pieces))


def theme(ident: str, heading: str, *folds: str) -> Markup:
    """A group of folds under a heading that the navigation links to; nothing without folds."""
    shown = [fold for fold in folds if fold]
    head = tag("h2", heading, id=f"{ident}-h")
    return tag("section", head, *shown, id=ident, aria_labelledby=f"{ident}-h") if shown else Markup("")


def fold(ident: str, heading: str, digest: str, *body: str, marks: str = "", class_: str = "fold") -> Markup:
    """A card that opens on demand.

    Args:
        ident: its id, for links.
        heading: its name.
        digest: what it says in one line, shown while it is closed too.
        body: what it holds.
        marks: badges beside the heading.
        class_: CSS classes.
    """
    top = tag("summary", tag("h3", breakable(heading)), marks, tag("span", digest, class_="digest"))
    return tag("details", top, tag("div", *body, class_="body"), id=ident, class_=class_)


def table(
    headers: Sequence[str],
    rows: Iterable[Sequence[str]],
    caption: str,
    *,
    words: int = 1,
    ship: Iterable[int] = (),
    stack: bool = False,
) -> Markup:
    """A table in a region that scrolls sideways on its own, and shows that it does.

    Args:
        headers: one per column.
        rows: cells, text or markup. The first cell of a row heads it.
        caption: what the table holds; also the region's name for a screen reader.
        words: number of leading columns with words (left-aligned); the others hold numbers.
        ship: indices of highlighted rows.
        stack: on a phone, show each row as a card instead of scrolling.
    """
    marked, named = set(ship), stack or None
    head = (
        tag("th", name, scope="col", class_=None if i < words else "n", role=named and "columnheader")
        for i, name in enumerate(headers)
    )
    body = []
    for r, row in enumerate(rows):
        first = row[0] if isinstance(row[0], Markup) else breakable(row[0])
        cells = [tag("th", first, scope="row", role=named and "rowheader")]
        for i, cell in enumerate(row[1:], start=1):
            label, role = (headers[i], "cell") if stack else (None, None)
            cells.append(tag("td", cell, class_=None if i < words else "n", data_label=label, role=role))
        body.append(tag("tr", *cells, class_="shipped" if r in marked else None, role=named and "row"))
    inner = tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", *head, role=named and "row"), role=named and "rowgroup"),
        tag("tbody", *body, role=named and "rowgroup"),
        role=named and "table",
    )
    return scroll(caption, inner, "scroll stack" if stack else "scroll")


def scroll(name: str, inner: str, class_: str = "scroll") -> Markup:
    """A region that scrolls sideways on its own, also by keyboard; `name` is its name for a screen reader."""
    return tag("div", inner, class_=class_, tabindex=0, role="region", aria_label=name)


def details(summary: str, *children: str) -> Markup:
    """A block that opens on demand."""
    return tag("details", tag("summary", summary), *children)


def figure(title: str, picture: str, *below: str, class_: str | None = None) -> Markup:
    """A chart with its title and whatever goes below it."""
    return tag("figure", tag("figcaption", title), picture, *below, class_=class_)


def tiles(pairs: Iterable[tuple[str, str, str]]) -> Markup:
    """Key numbers: (number, name, details)."""
    each = (
        tag("div", tag("dd", number), tag("dt", name, tag("small", more) if more else ""))
        for number, name, more in pairs
    )
    return tag("dl", *each, class_="tiles")


def badge(word: str, kind: str = "") -> Markup:
    """A word on a small coloured label."""
    return tag("span", word, class_=f"badge {kind or word}")
