"""What a source of images returns, and the small file helpers that sources share. Standard library only."""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from edgekit import choices
from edgekit.config.recipe import Order
from edgekit.data import class_names
from edgekit.errors import InputError
from edgekit.runtime import files
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


Problem = tuple[str, str]
"""Path as in `Item`, printable, and why it cannot be read."""


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
    problems: tuple[Problem, ...] = ()
    """Entries that are no files to read: pipes, links that lead nowhere or back, ..."""


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
    dark: str = ""
    """How little of their range the pixels use, if they are nearly black."""
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
    if file.exists() and (problem := files.trouble(str(file))):
        raise InputError(f'data.labels = "{path}": {problem} ({file})')
    try:
        text = composed(file.read_text(encoding="utf-8-sig"))
        labels = tuple(line.strip() for line in text.rstrip().splitlines())
    except FileNotFoundError:
        raise InputError(f'data.labels = "{path}": no such file ({file})') from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'data.labels = "{path}": cannot be read: {error}') from None
    if not labels:
        raise InputError(f'data.labels = "{path}": the file is empty; write one class name per line')
    return labels


def label_numbers(
    classes: set[str], labels: tuple[str, ...] | None, order: Order | None = None
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Number the class names: in the order of `labels` if given, else sorted, as text unless `order` says otherwise.

    Raises:
        InputError: a class in the data is not among `labels`, or occurs in them twice.
    """
    if labels is None:
        labels = class_names.sort(classes, order or "text")
    for name in sorted(classes):
        if name not in labels:
            raise InputError(f"data.labels: {choices.no_such(name, labels, 'class')}; it is a class in the data")
        if labels.count(name) > 1:
            raise InputError(f'data.labels: the class "{name}" is listed twice; use numbers, or rename one')
    return labels, {name: labels.index(name) for name in classes}


def composed(name: str) -> str:
    """The name in Unicode's composed form (NFC): file systems and editors may write the same word in another."""
    return unicodedata.normalize("NFC", name)


def spelled(root: Path, path: str) -> str:
    """The path as the file system spells it, if that differs in its Unicode form only; else unchanged."""
    ways = (path, *(unicodedata.normalize(form, path) for form in ("NFC", "NFD")))
    return next((way for way in ways if (root / way).exists()), path)


def subfolders(folder: Path) -> tuple[list[str], list[Problem]]:
    """Names of the folders in `folder`, sorted, without hidden ones; and links in it that lead nowhere or back.

    Raises:
        InputError: it cannot be read, or a folder's name is not UTF-8.
    """
    names, problems, real = [], [], os.path.realpath(folder)
    try:
        entries = sorted(entry for entry in folder.iterdir() if not files.skipped(entry.name))
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from None
    for entry in entries:
        if entry.is_dir():
            if entry.is_symlink() and files.leads_back(str(entry), real):
                problems.append((printable(entry.name), "a link back to a folder that it lies in"))
                continue
            if printable(entry.name) != entry.name:
                raise InputError(f"{folder}: the folder name {printable(entry.name)} is not UTF-8; rename it")
            names.append(entry.name)
        elif entry.is_symlink() and not entry.exists() and not _NOT_IMAGE.fullmatch(entry.suffix):
            problems.append((printable(entry.name), files.trouble(str(entry))))
    return names, problems


def image_files(folder: Path) -> tuple[list[str], list[Problem]]:
    """Paths of the images below `folder`, relative to it with forward slashes, sorted; and what cannot be read.

    Hidden files and files whose suffix is not that of an image (.txt, .json, ...) are left out.
    """
    paths, problems = [], []
    for path, problem in files.walk(str(folder)):
        if _NOT_IMAGE.fullmatch(os.path.splitext(path)[1]):
            continue
        shown = printable(path)
        if problem or shown != path:
            problems.append((shown, problem or "its name is not UTF-8"))
        else:
            paths.append(path)
    return paths, problems


def printable(path: str) -> str:
    """A path whose name may not be UTF-8, with the odd bytes in hexadecimal."""
    return os.fsencode(path).decode(errors="backslashreplace")
