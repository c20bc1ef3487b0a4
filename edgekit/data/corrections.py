"""What a recipe changes about a source's images: some left out, some under another class, some more to train on.

Standard library only.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from edgekit import choices
from edgekit.config import plain
from edgekit.config.recipe import DataSection
from edgekit.data import _table
from edgekit.data.listing import Item, Listing, composed, expand, spelled
from edgekit.errors import InputError
from edgekit.runtime import files

Key = Literal["exclude", "relabel", "extra"]
_COLUMNS: dict[Key, tuple[str, ...]] = {
    "exclude": ("path",),
    "relabel": ("path", "label"),
    "extra": ("path", "label"),
}


@dataclass(frozen=True)
class Corrected:
    """A listing after `apply`."""

    listing: Listing
    before: Mapping[str, Item]
    """What the source lists for each image of `listing` that has another class now, by path."""
    excluded: tuple[Item, ...]
    extra: tuple[Item, ...]
    """Of the training split; paths as in `listing`."""

    def __str__(self) -> str:
        parts = [
            f"{count} images {what}"
            for count, what in (
                (len(self.excluded), "left out (data.exclude)"),
                (len(self.before), "put under another class (data.relabel)"),
                (len(self.extra), "added to the training split (data.extra)"),
            )
            if count
        ]
        return ", ".join(parts)


@dataclass(frozen=True)
class _Row:
    where: str
    """File and line, or the key."""
    path: str
    label: str


def traces(data: DataSection, base: Path) -> Iterator[str]:
    """Lines that change when a file that the section names changes: contents of tables, sizes and times of images.

    Raises:
        InputError: as `apply`, for what is wrong with a file itself.
    """
    for key in _COLUMNS:
        value = getattr(data, key)
        if isinstance(value, str):
            file = _file(key, value, base)
            rows = _rows(key, value, base)
            yield f"{key} {hashlib.sha256(file.read_bytes()).hexdigest()}"
            if key == "extra":
                states = [os.stat(file.parent / row.path) for row in rows]
                yield from (f"{state.st_size} {state.st_mtime_ns}" for state in states)


def named(data: DataSection, base: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Paths in ``data.exclude``, each with where that is, and paths and classes in ``data.relabel``.

    Raises:
        InputError: as `apply`, for what is wrong with a file itself.
    """
    return (
        {row.path: row.where for row in _rows("exclude", data.exclude, base)},
        {row.path: row.label for row in _rows("relabel", data.relabel, base)},
    )


def apply(listing: Listing, data: DataSection, base: Path, moves: bool) -> Corrected:
    """Do what ``data.exclude``, ``data.relabel`` and ``data.extra`` say; the first two may name extra images, too.

    Args:
        listing: what the source lists.
        data: the recipe's section.
        base: the recipe's folder, where relative paths start.
        moves: whether the listing's folder is the stage's own, which may be renamed.

    Raises:
        InputError: a missing or unreadable file, a column that is missing, an image that is not in the data (of
            ``data.extra``: that is), an unknown class, an image named twice or in two files, a class without images.
    """
    numbers = {label: number for number, label in enumerate(listing.labels)}
    items = {item.path: item for item in listing.items}
    extra = {item.path: item for item in _extra(listing, data, base, numbers, moves)}
    broken = dict(listing.problems)
    exclude = _named("exclude", data.exclude, base, listing, {*items, *extra, *broken})
    relabel = _named("relabel", data.relabel, base, listing, {*items, *extra})
    for path in sorted(relabel.keys() & exclude.keys()):
        first, second = relabel[path].where, exclude[path].where
        raise InputError(f"{first}: {path} is left out by {second}, too; remove one of the two")
    labels = {path: _number(row, numbers) for path, row in relabel.items()}

    def corrected(before: Mapping[str, Item]) -> tuple[Item, ...]:
        kept = (item for path, item in before.items() if path not in exclude)
        return tuple(replace(item, label=labels.get(item.path, item.label)) for item in kept)

    kept = corrected(items)
    for label in sorted({item.label for item in items.values()} - {item.label for item in kept}):
        raise InputError(
            f'data: data.exclude and data.relabel leave no image of class "{listing.labels[label]}"; '
            "keep one, or remove the class from the data"
        )
    problems = tuple(each for each in listing.problems if each[0] not in exclude)
    return Corrected(
        replace(listing, items=kept, problems=problems),
        {item.path: items[item.path] for item in kept if item != items[item.path]},
        tuple(items[path] for path in exclude if path in items),
        corrected(extra),
    )


def _named(key: Key, value: str | list[str] | None, base: Path, listing: Listing, known: set[str]) -> dict[str, _Row]:
    """The rows of a key by the path of the image in the data, whatever the Unicode form it is written in."""
    alike = {composed(path): path for path in known}
    found: dict[str, _Row] = {}
    for row in _rows(key, value, base):
        path = row.path if row.path in known else alike.get(composed(row.path), "")
        if not path:
            missing = choices.no_such(row.path, known, "image in the data")
            raise InputError(f"{row.where}: {missing}; paths start from {listing.root}")
        found[path] = row
    return found


def _extra(listing: Listing, data: DataSection, base: Path, numbers: Mapping[str, int], moves: bool) -> Iterator[Item]:
    if data.extra is None:
        return
    folder, root = _file("extra", data.extra, base).resolve().parent, listing.root.resolve()
    listed = {os.path.realpath(root / item.path): item.path for item in listing.items}
    for row in _rows("extra", data.extra, base):
        file = os.path.abspath(folder / row.path)
        if known := listed.get(os.path.realpath(file)):
            raise InputError(f"{row.where}: {row.path} is in the data already, as {known}; remove this row")
        path = file if moves else os.path.relpath(file, root)
        yield Item(Path(path).as_posix(), _number(row, numbers), "train")


def _number(row: _Row, numbers: Mapping[str, int]) -> int:
    if row.label not in numbers:
        raise InputError(f"{row.where}: {choices.no_such(row.label, numbers, 'class')}")
    return numbers[row.label]


def _file(key: Key, text: str, base: Path) -> Path:
    file = expand(text, base)
    if not file.exists():
        raise InputError(f"data.{key} = {plain.shown(text)}: no such file ({file})")
    return file


def _rows(key: Key, value: str | list[str] | None, base: Path) -> list[_Row]:
    """What a key names, each image once; those of ``data.extra`` exist."""
    if value is None:
        return []
    if isinstance(value, list):
        rows = [_Row(f"data.{key}[{place}]", _slashed(path), "") for place, path in enumerate(value)]
    else:
        file = _file(key, value, base)
        columns, table = _table.read(file)
        for column in _COLUMNS[key]:
            if column not in columns:
                raise InputError(f"{file}:1: {choices.no_such(column, columns, 'column')}")
        rows = [_row(key, file, cells, line) for cells, line in table]
    seen: dict[str, _Row] = {}
    for row in rows:
        if row.path in seen:
            other = seen[row.path]
            as_ = f' as "{other.label}"' if other.label != row.label else ""
            raise InputError(f"{row.where}: {row.path} is named already{as_}, by {other.where}; remove one of the two")
        seen[row.path] = row
    return rows


def _row(key: Key, file: Path, cells: Mapping[str, str], line: int) -> _Row:
    where = f"{file}:{line}"
    for column in _COLUMNS[key]:
        if not cells[column].strip():
            raise InputError(f'{where}: "{column}" must not be empty')
    path = _slashed(cells["path"])
    if key == "extra":
        path = spelled(file.parent, path)
        if problem := files.trouble(str(file.parent / path)):
            raise InputError(f"{where}: {path}: {problem}")
    return _Row(where, path, composed(cells.get("label", "").strip()))


def _slashed(path: str) -> str:
    return path.strip().replace("\\", "/")
