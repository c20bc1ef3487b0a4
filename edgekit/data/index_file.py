"""The data stage (list, clean, split) and its file ``index.json``. Light to import."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from edgekit.config.recipe import DataSection
from edgekit.console import Console
from edgekit.data.listing import expand
from edgekit.data.port import source
from edgekit.data.split import assign
from edgekit.disk.atomic import write_bytes
from edgekit.errors import InputError
from edgekit.types import Index, Sample


def build(data: DataSection, base: Path, work: Path, console: Console) -> Index:
    """List, clean and split the images that a recipe names.

    Args:
        data: the recipe's section.
        base: the recipe's folder, where relative paths start.
        work: the stage's folder; sources without image files write them to ``work/images``.
        console: for progress.

    Returns:
        The index, its samples sorted by path.

    Raises:
        InputError: something is wrong with the images or the section; the message is one line.
    """
    from edgekit.data._clean import clean

    listing = source(data.source).listing(data, base, work)
    images, findings = clean(listing, data.clean, console, data.channels, slender=data.resize != "crop")
    for label in sorted({item.label for item in listing.items} - {image.item.label for image in images}):
        raise InputError(f'data: cleaning left no image of class "{listing.labels[label]}"; add images or remove it')
    splits = assign(images, listing.labels, data)
    samples = tuple(
        Sample(image.item.path, image.item.label, splits[image.item.path], image.sha256)
        for image in sorted(images, key=lambda image: image.item.path)
    )
    trained = {sample.label for sample in samples if sample.split == "train"}
    untrained = sorted({sample.label for sample in samples} - trained)
    if untrained and data.split == "stratified":
        names = ", ".join(listing.labels[label] for label in untrained[:3]) + (", ..." if len(untrained) > 3 else "")
        console.say(f"data: {len(untrained)} of {len(listing.labels)} classes have no training image: {names}")
    made = listing.root.resolve().is_relative_to(work.resolve())
    root = listing.root.resolve().relative_to(work.resolve()) if made else listing.root.resolve()
    return Index(root.as_posix(), listing.labels, samples, findings)


@cache
def _json() -> TypeAdapter[Index]:
    return TypeAdapter(Index)


def save(index: Index, folder: Path) -> None:
    """Write ``index.json`` into `folder`."""
    write_bytes(folder / "index.json", _json().dump_json(index, indent=1))


def load(folder: Path) -> Index:
    """Read ``index.json`` from `folder`.

    Raises:
        InputError: it is missing or damaged.
    """
    file = folder / "index.json"
    try:
        return _json().validate_json(file.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; run the data stage first") from None
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise InputError(f"{file}: damaged ({problem['msg']}); remove the folder and run again") from None


def root_of(index: Index, folder: Path) -> Path:
    """Folder that sample paths start from; `folder` holds the index."""
    return folder / index.root


def load_rooted(folder: Path) -> tuple[Index, Path]:
    """The index in `folder`, and the folder that its sample paths start from; raises as `load`."""
    index = load(folder)
    return index, root_of(index, folder)


def fingerprint(data: DataSection, base: Path) -> str:
    """A cheap hash that changes when the images may have changed: names, sizes and times, never contents.

    For downloaded data sets and digits it covers the name and the package's version, as their files are fixed.

    Raises:
        InputError: the data does not exist or cannot be read.
    """
    return hashlib.sha256("\n".join(_traces(data, base)).encode(errors="surrogateescape")).hexdigest()


def _traces(data: DataSection, base: Path) -> Iterator[str]:
    yield data.source
    if data.labels:
        yield _trace(expand(data.labels, base), data.labels)
    if data.source == "digits":
        yield version("scikit-learn")
    elif data.source == "torchvision":
        yield from (str(data.name), str(data.path and expand(data.path, base)), version("torchvision"))
    else:
        path = expand(data.path or "", base)
        if path.is_file():
            yield _trace(path, data.path or "")
        listing = source(data.source).listing(data, base, base)
        yield from (_trace(listing.root / item.path, item.path) for item in listing.items)


def _trace(file: Path, name: str) -> str:
    try:
        state = os.stat(file)
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    return f"{name} {state.st_size} {state.st_mtime_ns}"
