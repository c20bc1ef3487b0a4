"""What a source of images returns, and the small file helpers that sources share. Standard library only."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgekit import choices
from edgekit.config.recipe import DataSection, Order
from edgekit.errors import InputError
from edgekit.types import Split

SPLIT_WORDS: dict[str, Split] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}

# A file with any other suffix counts as an image, so that a broken image is reported, not overlooked.
_NOT_IMAGE = re.compile(r"\.(cfg|csv|db|html?|ini|json|log|mat|md|npy|npz|pkl|py|rst|toml|tsv|txt|xml|ya?ml)", re.I)


@dataclass(frozen=True)
class Item:
    """One image file as its source lists it."""

    path: str
    """Relative to `Listing.root`, with forward slashes."""
    label: int
    split: Split | None = None
    """None where the source has no splits of its own."""


@dataclass(frozen=True)
class Listing:
    """All images of a source, before cleaning and splitting."""

    root: Path
    labels: tuple[str, ...]
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Scan:
    """One listed image after decoding it once."""

    item: Item
    sha256: str = ""
    """SHA-256 of the file's bytes."""
    pixels: str = ""
    """Digest of the decoded upright RGB pixels and their shape."""
    mode: str = "RGB"
    """Colour mode of the file; "RGB" needs no conversion."""
    turned: bool = False
    """EXIF asks for a rotation or a mirror image."""
    problem: str = ""
    """Why it cannot be decoded; empty when it can."""


def expand(text: str, base: Path) -> Path:
    """Path from a recipe: replaces ``${VAR}``, ``${VAR:-default}`` and ``~``; relative paths start from `base`.

    Raises:
        InputError: a variable is not set (or empty) and has no default.
    """

    def value(match: re.Match[str]) -> str:
        setting = os.environ.get(match["name"]) or match["default"]
        if setting is None:
            raise InputError(
                f'"{text}": the environment variable {match["name"]} is not set; '
                f"set it, or write ${{{match['name']}:-default}}"
            )
        return setting

    return base / Path(re.sub(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}", value, text)).expanduser()


def source_path(path: str | None, base: Path, source: str) -> Path:
    """The existing file or folder that ``data.path`` names.

    Raises:
        InputError: it is not given, or does not exist.
    """
    if path is None:
        raise InputError(f'data.path: this key is required with data.source = "{source}"')
    expanded = expand(path, base)
    if not expanded.exists():
        raise InputError(f'data.path = "{path}": no such file or folder ({expanded})')
    return expanded


def read_labels(path: str, base: Path) -> tuple[str, ...]:
    """Class names from a text file, one per line; trailing empty lines do not count.

    Raises:
        InputError: missing file, not UTF-8, or empty.
    """
    file = expand(path, base)
    try:
        labels = tuple(line.strip() for line in file.read_text(encoding="utf-8-sig").rstrip().splitlines())
    except FileNotFoundError:
        raise InputError(f'data.labels = "{path}": no such file ({file})') from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'data.labels = "{path}": cannot be read: {error}') from None
    if not labels:
        raise InputError(f'data.labels = "{path}": the file is empty; write one class name per line')
    return labels


def sort_classes(names: Iterable[str], order: Order) -> tuple[str, ...]:
    """Class names as text (torchvision, Keras: 0, 1, 10, 2) or naturally (timm: 0, 1, 2, 10, whatever their case)."""

    def natural(name: str) -> list[tuple[int, str]]:
        parts = re.split(r"(\d+)", name.lower())  # digits at the odd places
        return [(int(part), "") if place % 2 else (0, part) for place, part in enumerate(parts)]

    return tuple(sorted(sorted(names), key=natural if order == "natural" else None))


def by_name(data: DataSection, labels: Iterable[str]) -> bool:
    """Whether classes are found by their names, so that ``data.order`` and ``data.labels`` can number them."""
    in_words = data.labels is not None or not all(label.isdecimal() for label in labels)
    return data.source == "image_folder" or (data.source == "csv_labels" and in_words)


def label_numbers(
    classes: set[str], labels: tuple[str, ...] | None, order: Order | None = None
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Number the class names: in the order of `labels` if given, else sorted, as text unless `order` says otherwise.

    Raises:
        InputError: a class in the data is not among `labels`, or occurs in them twice.
    """
    if labels is None:
        labels = sort_classes(classes, order or "text")
    for name in sorted(classes):
        if name not in labels:
            raise InputError(f"data.labels: {choices.no_such(name, labels, 'class')}; it is a class in the data")
        if labels.count(name) > 1:
            raise InputError(f'data.labels: the class "{name}" is listed twice; use numbers, or rename one')
    return labels, {name: labels.index(name) for name in classes}


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in `folder`, sorted, without hidden ones.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise _unreadable(error) from None


def _unreadable(error: OSError) -> InputError:
    return InputError(f"{error.filename}: cannot be read: {error.strerror}")


def image_files(folder: Path) -> Iterator[str]:
    """Paths of the images below `folder`, relative to it with forward slashes, sorted.

    Hidden files and files whose suffix is not that of an image (.txt, .json, ...) are left out.

    Raises:
        InputError: a folder cannot be read, or a file name is not UTF-8.
    """

    def stop(error: OSError) -> None:  # by default, os.walk ignores errors
        raise _unreadable(error)

    paths = []
    for where, folders, files in os.walk(folder, onerror=stop, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.startswith(".") or _NOT_IMAGE.fullmatch(os.path.splitext(name)[1]):
                continue
            path = os.path.relpath(os.path.join(where, name), folder).replace(os.sep, "/")
            try:
                path.encode()
            except UnicodeEncodeError:
                raise InputError(f"{folder}: the file name {path!r} is not UTF-8; rename it") from None
            paths.append(path)
    yield from sorted(paths)
