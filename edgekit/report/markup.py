"""HTML and SVG tags that escape by default: only what `tag` made is taken as markup, every other string is text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


class Markup(str):
    """Text that is already HTML."""

    __slots__ = ()


def tag(name: str, *children: str, **attributes: object) -> Markup:
    """One element. Children that are not `Markup` are escaped, and so are attribute values; None drops an attribute.

    A trailing underscore is cut from attribute names (``class_``), other underscores become hyphens.
    """
    parts = [name]
    for key, value in attributes.items():
        if value is not None:
            shown = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
            parts.append(f'{key.rstrip("_").replace("_", "-")}="{escape(shown)}"')
    return Markup(f"<{' '.join(parts)}>{join(children)}</{name}>")


def join(children: Iterable[str]) -> Markup:
    """Pieces one after the other, escaped where they are plain text."""
    return Markup("".join(child if isinstance(child, Markup) else escape(child, quote=False) for child in children))


def section(ident: str, heading: str, *children: str, lead: str = "") -> Markup:
    """A card with a heading that the navigation can point at."""
    intro = tag("p", lead, class_="lead") if lead else ""
    return tag("section", tag("h2", heading, id=f"{ident}-h"), intro, *children, id=ident, aria_labelledby=f"{ident}-h")


def table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], caption: str, *, words: int = 1, ship: Iterable[int] = ()
) -> Markup:
    """A table in a region that scrolls sideways on its own.

    Args:
        headers: one a column.
        rows: cells, text or markup. The first cell of a row heads it.
        caption: what the table holds; also the region's name for a screen reader.
        words: so many leading columns hold words (left-aligned), the others numbers.
        ship: indices of highlighted rows.
    """
    marked = set(ship)
    head = (tag("th", name, scope="col", class_=None if i < words else "n") for i, name in enumerate(headers))
    body = []
    for r, row in enumerate(rows):
        cells = [tag("th", row[0], scope="row")]
        cells += (tag("td", cell, class_=None if i < words else "n") for i, cell in enumerate(row[1:], start=1))
        body.append(tag("tr", *cells, class_="shipped" if r in marked else None))
    inner = tag("table", tag("caption", caption), tag("thead", tag("tr", *head)), tag("tbody", *body))
    return scroll(caption, inner)


def scroll(name: str, inner: str) -> Markup:
    """A region that scrolls sideways on its own, also by keyboard; `name` is what a screen reader calls it."""
    return tag("div", inner, class_="scroll", tabindex=0, role="region", aria_label=name)


def details(summary: str, *children: str) -> Markup:
    """Something to open on demand."""
    return tag("details", tag("summary", summary), *children)


def figure(title: str, picture: str, *below: str) -> Markup:
    """A chart with its title and what stands below it."""
    return tag("figure", tag("figcaption", title), picture, *below)


def tiles(pairs: Iterable[tuple[str, str, str]]) -> Markup:
    """Key numbers: (number, what it is, more words)."""
    each = (
        tag("div", tag("dd", number), tag("dt", name, tag("small", more) if more else ""))
        for number, name, more in pairs
    )
    return tag("dl", *each, class_="tiles")


def badge(word: str, kind: str = "") -> Markup:
    """A small coloured word."""
    return tag("span", word, class_=f"badge {kind or word}")
