"""HTML and SVG tags that escape by default: only the output of `tag` counts as markup; other strings are text."""

from __future__ import annotations

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


def section(ident: str, heading: str, *children: str, lead: str = "") -> Markup:
    """A card with a heading that the navigation can link to."""
    intro = tag("p", lead, class_="lead") if lead else ""
    return tag("section", tag("h2", heading, id=f"{ident}-h"), intro, *children, id=ident, aria_labelledby=f"{ident}-h")


def table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], caption: str, *, words: int = 1, ship: Iterable[int] = ()
) -> Markup:
    """A table in a region that scrolls sideways on its own.

    Args:
        headers: one per column.
        rows: cells, text or markup. The first cell of a row heads it.
        caption: what the table holds; also the region's name for a screen reader.
        words: number of leading columns with words (left-aligned); the others hold numbers.
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
    """A region that scrolls sideways on its own, also by keyboard; `name` is its name for a screen reader."""
    return tag("div", inner, class_="scroll", tabindex=0, role="region", aria_label=name)


def details(summary: str, *children: str) -> Markup:
    """A block that opens on demand."""
    return tag("details", tag("summary", summary), *children)


def figure(title: str, picture: str, *below: str) -> Markup:
    """A chart with its title and whatever goes below it."""
    return tag("figure", tag("figcaption", title), picture, *below)


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
