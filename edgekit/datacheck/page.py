"""``check.html``: the findings as a sheet of pictures, in one file, in the style of the report of a run."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from edgekit import __version__
from edgekit.datacheck.port import check
from edgekit.datacheck.records import EXCLUDE, RELABEL, SUSPECTS, Found, Picture, Result
from edgekit.report.markup import Markup, breakable, fold, table, tag, theme, tiles
from edgekit.report.page import page

SIDE, QUALITY = 112, 72
"""Pixels of the longer side of a thumbnail, and its JPEG quality: about 4 kB each."""
SHOWN, OF_ONE, PICTURES = 60, 6, 400
"""Findings of a kind that are shown, pictures of one finding, and pictures in all."""


def render(result: Result, root: Path, channels: int, tables: Path) -> str:
    """The page as HTML.

    Args:
        result: what was found.
        root: folder that paths start from.
        channels: of the network's input, 1 to 4.
        tables: folder of the tables, as the recipe may name it.
    """
    thumbs = _Thumbs(root, channels)
    sections = [
        ("summary", "Summary", _summary(result, tables)),
        ("findings", "Findings", theme("findings", "Findings", *_kinds(result, thumbs))),
        ("data", "Data", theme("data", "Data", _classes(result), _checks(result))),
    ]
    created = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    title = tag("div", tag("p", f"edgekit data check, {created}", class_="eyebrow"), tag("h1", breakable(result.name)))
    footer = f"edgekit {__version__}, {created}."
    return page(f"{result.name}: edgekit data check", __version__, tag("header", title), sections, footer)


class _Thumbs:
    """Small JPEG pictures as data URIs, so many and no more."""

    def __init__(self, root: Path, channels: int) -> None:
        self._root, self._channels, self._left = root, channels, PICTURES

    def figure(self, picture: Picture) -> Markup:
        """An image with its path, class and split."""
        source = self._source(picture.path)
        alt = f"{picture.path}, {picture.label}" if picture.label else picture.path
        image = tag("img", src=source, alt=alt, loading="lazy") if source else Markup("")
        said = " · ".join(filter(None, (picture.label, picture.split)))
        return tag("figure", image, tag("figcaption", breakable(picture.path), tag("small", said)), class_="thumb")

    def _source(self, path: str) -> str:
        """Empty if the image cannot be shown."""
        if not self._left:
            return ""
        from PIL import Image

        from edgekit.data.transforms import decode, strict_pillow
        from edgekit.runtime.image_file import COLORS

        try:
            with strict_pillow():
                image = decode((self._root / path).read_bytes(), COLORS[self._channels - 1]).image.convert("RGB")
        except Exception:  # what cleaning could not read
            return ""
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=QUALITY)
        self._left -= 1
        return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _summary(result: Result, folder: Path) -> Markup:
    heading = tag("h2", "Summary", id="summary-h", class_="unseen")
    exclude, relabel, suspect = _fixes(result)
    count = len(result.found)
    words = "Nothing was found." if not count else f"{count} finding{'s' if count > 1 else ''}."
    numbers = [
        (f"{result.images:,}", "images", f"of {len(result.labels)} classes, after cleaning"),
        (f"{count:,}", "findings", f"in {result.seconds:.0f} s"),
        (f"{exclude:,}", "to leave out", EXCLUDE),
        (f"{relabel:,}", "to relabel", RELABEL),
        (f"{suspect:,}", "labels to look at", SUSPECTS),
    ]
    parts = [tag("h3", words), tiles(numbers)]
    tables = (("exclude", EXCLUDE, exclude), ("relabel", RELABEL, relabel))
    if keys := [f'{key} = "{(folder / file).as_posix()}"' for key, file, rows in tables if rows]:
        parts.append(tag("p", "Look through the tables, then name them in the recipe:", class_="reason"))
        parts.append(tag("pre", "\n".join(("[data]", *keys))))
    if suspect:
        said = "is such a table, too: delete the rows of labels that are right, and take the rest as data.relabel."
        parts.append(tag("p", f"{SUSPECTS} {said}", class_="muted"))
    card = tag("article", *parts, class_="card ships none" if count else "card ships")
    return tag("section", heading, tag("div", card, class_="cards few"), id="summary", aria_labelledby="summary-h")


def _fixes(result: Result) -> tuple[int, int, int]:
    """Images that findings want to leave out, to relabel, and to be looked at."""
    drop = {path for found in result.found for path in found.exclude}
    relabel = {path for found in result.found for path, _ in found.relabel} - drop
    return len(drop), len(relabel), len({path for found in result.found for path, _ in found.suspect} - drop)


def _kinds(result: Result, thumbs: _Thumbs) -> Iterator[Markup]:
    titles = {kind: title for name in result.checks for kind, title in check(name).TITLES.items()}
    for kind, found in result.kinds.items():
        yield fold(f"kind-{kind}", titles[kind], _digest(found), *_sheet(found, thumbs))


def _digest(found: Sequence[Found]) -> str:
    exclude, relabel = sum(len(each.exclude) for each in found), sum(len(each.relabel) for each in found)
    parts = [f"{len(found)} finding{'s' if len(found) > 1 else ''}"]
    parts += [f"{exclude} to leave out"] if exclude else []
    parts += [f"{relabel} to relabel"] if relabel else []
    return ", ".join(parts)


def _sheet(found: Sequence[Found], thumbs: _Thumbs) -> Iterator[Markup]:
    cards = []
    for each in found[:SHOWN]:
        fix = [f"→ {label}" for _, label in each.relabel] + [f"leave out {path}" for path in each.exclude[:OF_ONE]]
        pictures = tag("div", *(thumbs.figure(picture) for picture in each.pictures[:OF_ONE]), class_="thumbs")
        more = len(each.pictures) - OF_ONE
        said = [tag("p", each.detail, f" ({more} more pictures)" if more > 0 else "")]
        said += [tag("p", "; ".join(fix), class_="muted")] if fix else []
        cards.append(tag("div", *([pictures] if each.pictures else []), *said, class_="finding"))
    yield tag("div", *cards, class_="sheet")
    if len(found) > SHOWN:
        yield tag("p", f"{len(found) - SHOWN} more are in check.json.", class_="muted")


def _classes(result: Result) -> Markup:
    rows = [
        (name, *(f"{counts[place]:,}" for counts in result.counts.values())) for place, name in enumerate(result.labels)
    ]
    listed = table(("class", *result.counts), rows, "Images of each class in each split")
    note = result.checks["balance"].note if "balance" in result.checks else ""
    return fold("classes", "Classes", note or f"{len(result.labels)} classes", listed)


def _checks(result: Result) -> Markup:
    rows = [
        (name, "skipped" if each.skipped else f"{len(each.found)}", each.note or "—")
        for name, each in result.checks.items()
    ]
    about = tag("p", f"Embeddings: {result.network}.", class_="lead")
    listed = table(("check", "findings", ""), rows, "Checks", words=3)
    return fold("checks", "Checks", "what was looked for, and how", about, listed)
