"""The data stage (list, clean, split) and its file ``index.json``. Light to import."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from edgekit.config import plain
from edgekit.config.recipe import DataSection
from edgekit.console import Console
from edgekit.data import corrections
from edgekit.data.listing import Listing, Scan, expand, printable
from edgekit.data.port import source
from edgekit.data.split import assign
from edgekit.disk.atomic import write_bytes
from edgekit.errors import InputError
from edgekit.types import Finding, Index, Sample, Split

DIGITS = tuple(str(digit) for digit in range(10))
"""The classes of the source ``digits``, which writes its images before it can list them."""


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
    from edgekit.data._clean import clean, scan

    listed = _listed(data, base, work)
    corrected = corrections.apply(listed, data, base, moves=_made(listed, work))
    listing = corrected.listing
    if said := str(corrected):
        console.say(f"data: {said}")
    ready = {item.split for item in listing.items}
    for key in ("val", "test"):
        share = getattr(data, key)
        if key in ready and share not in (0, DataSection.model_fields[key].default):
            console.say(f"data: data.{key} = {share:g} has no effect: the data has a {key} split of its own")
    slender = data.resize != "crop"
    images, findings = clean(listing, data.clean, console, data.channels, slender)
    for label in sorted({item.label for item in listing.items} - {image.item.label for image in images}):
        raise InputError(f'data: cleaning left no image of class "{listing.labels[label]}"; add images or remove it')
    # A corrected image keeps the others where they were: a new test split would tell nothing about the correction.
    before = [replace(image, item=corrected.before.get(image.item.path, image.item)) for image in images]
    if corrected.excluded:
        gone = scan(replace(listed, items=corrected.excluded), console, data.channels, slender)
        before += [image for image in gone if not image.problem]
    splits = assign(before, listing.labels, data)
    if corrected.extra:
        more, found = _extra(replace(listed, items=corrected.extra, problems=()), images, splits, data, console)
        images, findings = [*images, *more], (*findings, *found)
        splits |= {image.item.path: "train" for image in more}
    samples = tuple(
        Sample(image.item.path, image.item.label, splits[image.item.path], image.sha256)
        for image in sorted(images, key=lambda image: image.item.path)
    )
    if data.val and not any(sample.split == "val" for sample in samples):
        console.say(f"data: {len(samples)} images leave the validation split empty: nothing is chosen by its accuracy")
    trained = {sample.label for sample in samples if sample.split == "train"}
    untrained = sorted({sample.label for sample in samples} - trained)
    if untrained and data.split == "stratified":
        names = ", ".join(listing.labels[label] for label in untrained[:3]) + (", ..." if len(untrained) > 3 else "")
        console.say(f"data: {len(untrained)} of {len(listing.labels)} classes have no training image: {names}")
    if (shown := printable(str(listing.root.resolve()))) != str(listing.root.resolve()):
        raise InputError(f"{shown}: the name of this folder is not UTF-8; rename it")
    root = listing.root.resolve()
    root = root.relative_to(work.resolve()) if _made(listing, work) else root
    return Index(root.as_posix(), listing.labels, samples, findings)


def _made(listing: Listing, work: Path) -> bool:
    """Whether the source wrote its images into the stage's folder."""
    return listing.root.resolve().is_relative_to(work.resolve())


def _extra(
    listing: Listing, images: Sequence[Scan], splits: Mapping[str, Split], data: DataSection, console: Console
) -> tuple[list[Scan], tuple[Finding, ...]]:
    """The images of ``data.extra`` that stay: none with the pixels of one that the data has under its own label."""
    from edgekit.data._clean import clean

    kept, findings = clean(listing, data.clean, console, data.channels, slender=data.resize != "crop")
    known = {image.pixels: image.item.path for image in images}
    copies = [image for image in kept if image.pixels in known]
    dropped = (
        Finding(
            "duplicate" if splits[known[image.pixels]] == "train" else "leak",
            image.item.path,
            f"of data.extra; the same pixels are in {splits[known[image.pixels]]}: {known[image.pixels]}",
            "drop",
        )
        for image in copies
    )
    return [image for image in kept if image.pixels not in known], (*findings, *dropped)


LABELS = "labels.txt"
FINDINGS = "findings.csv"
_VERBS = {"drop": "dropped", "keep": "kept"}
_WORDS = {
    "unreadable": "unreadable",
    "mode": "in other colours",
    "range": "nearly black",
    "orientation": "turned by EXIF",
    "conflict": "under two labels",
    "leak": "that are in another split, too",
    "duplicate": "duplicate",
}


def labels(data: DataSection, base: Path) -> tuple[str, ...] | None:
    """The class names where they can be known before the data stage; None if the images must be downloaded first.

    Raises:
        InputError: as `build`.
    """
    if data.source == "torchvision":
        return None
    return DIGITS if data.source == "digits" else _listed(data, base, base).labels


def _listed(data: DataSection, base: Path, work: Path) -> Listing:
    """What the source lists, if all class names can be written one a line."""
    listing = source(data.source).listing(data, base, work)
    for label in listing.labels:
        if not label or not plain.is_plain(label):
            why = "is empty" if not label else "holds a control character, or is not UTF-8"
            raise InputError(f"data: the class name {plain.shown(label)} {why}; rename it")
    return listing


@cache
def _json() -> TypeAdapter[Index]:
    return TypeAdapter(Index)


def save(index: Index, folder: Path) -> None:
    """Write ``index.json`` into `folder`, the class names in their order, and what cleaning found, for people."""
    write_bytes(folder / "index.json", _json().dump_json(index, indent=1))
    write_bytes(folder / LABELS, "".join(f"{label}\n" for label in index.labels).encode())
    if index.findings:
        table = io.StringIO()
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(("action", "kind", "path", "images", "detail"))
        rows.writerows((each.action, each.kind, each.path, each.count, each.detail) for each in index.findings)
        write_bytes(folder / FINDINGS, table.getvalue().encode())


def summary(findings: Iterable[Finding]) -> str:
    """What cleaning did, e.g. "dropped 27 unreadable, 6 duplicate; kept 3 nearly black"; "" if it found nothing."""
    counts: dict[tuple[str, str], int] = Counter()
    for finding in findings:
        counts[finding.action, finding.kind] += finding.count
    parts = {
        action: ", ".join(f"{count} {_WORDS[kind]}" for (done, kind), count in counts.items() if done == action)
        for action in ("drop", "keep")
    }
    return "; ".join(f"{verb} {parts[action]}" for action, verb in _VERBS.items() if parts[action])


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
    yield from corrections.traces(data, base)
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
        listing = _listed(data, base, base)
        for item in listing.items:
            with suppress(InputError):  # cleaning says what is wrong with it
                yield _trace(listing.root / item.path, item.path)
        yield from (f"{path}: {problem}" for path, problem in listing.problems)


def _trace(file: Path, name: str) -> str:
    try:
        state = os.stat(file)
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    return f"{name} {state.st_size} {state.st_mtime_ns}"
