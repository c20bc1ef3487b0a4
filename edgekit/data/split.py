"""Assign images to train, val and test, and pick calibration images. Deterministic, standard library only."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from fractions import Fraction
from math import ceil, floor
from typing import TypeVar

from edgekit.config.recipe import DataSection
from edgekit.data.listing import Scan
from edgekit.errors import InputError
from edgekit.types import Index, Sample, Split

T = TypeVar("T")
USUAL = 128
"""Calibration images where the recipe names no number."""
Group = list[Scan]
"""Images with the same pixels: they stay in one split."""


def assign(images: Sequence[Scan], labels: Sequence[str], data: DataSection) -> dict[str, Split]:
    """Give every image its split.

    Splits that the source has stay as they are. Those that it lacks, and whose share in the recipe is not 0, are
    taken from its training images (from all images if it has no splits); the shares refer to these. Images with
    the same pixels always share a split. The result depends on paths, pixels and the seed only, not on the order
    of `images`.

    Args:
        images: readable images; each path once.
        labels: class names, for messages.
        data: `split`, `val`, `test` and `seed`.

    Returns:
        Split by path.

    Raises:
        InputError: a class with one image (stratified), or a split that would be empty; a validation split of the
            usual share may be.
    """
    present = {image.item.split for image in images} - {None}
    val = Fraction(0) if "val" in present else Fraction(str(data.val))
    test = Fraction(0) if "test" in present else Fraction(str(data.test))
    ready: dict[str, Split] = {image.item.path: image.item.split for image in images if image.item.split}
    pool = [image for image in images if image.item.split in (None, "train")]
    if not pool:
        raise InputError("data: the training split is empty; add images to it")
    method = _stratified if data.split == "stratified" else _strided
    splits: dict[str, Split] = ready | dict.fromkeys(_paths(pool), "train")
    if val or test:
        splits |= method(_groups(pool), labels, val, test, data.seed)
    if data.val == DataSection.model_fields["val"].default and "test" in splits.values():
        val = Fraction(0)  # nobody asked for it, and classes of two images have none left
    for name, share in (("train", Fraction(1)), ("val", val), ("test", test)):
        if share and name not in splits.values():
            raise InputError(
                f"data: {len(pool)} images leave the {name} split empty; add images, or change data.val and data.test"
            )
    return splits


def _paths(images: Iterable[Scan]) -> list[str]:
    return [image.item.path for image in images]


def _groups(images: Iterable[Scan]) -> list[Group]:
    """Group images with the same pixels, sorted by path so that the listing's order does not matter."""
    by_pixels: dict[str, Group] = defaultdict(list)
    for image in sorted(images, key=lambda image: image.item.path):
        by_pixels[image.pixels].append(image)
    return list(by_pixels.values())


def _stratified(
    groups: Sequence[Group], labels: Sequence[str], val: Fraction, test: Fraction, seed: int
) -> dict[str, Split]:
    """Each class contributes its share to each split, to within one image; rounding errors do not add up."""
    by_label: dict[int, list[Group]] = defaultdict(list)
    for group in groups:
        by_label[group[0].item.label].append(group)
    splits: dict[str, Split] = {}
    owed_val = owed_test = Fraction(0)
    for label, members in sorted(by_label.items()):
        if len(members) < 2:
            raise InputError(
                f'data: class "{labels[label]}" has one image, which cannot be split; add more or remove the class'
            )
        room = len(members) - 1  # one stays for training
        take_test, owed_test = _round(len(members) * test, owed_test, room)
        take_val, owed_val = _round(len(members) * val, owed_val, room - take_test)
        for place, group in enumerate(_shuffled(members, f"{seed}/{labels[label]}")):
            name: Split = "test" if place < take_test else "val" if place < take_test + take_val else "train"
            splits |= dict.fromkeys(_paths(group), name)
    return splits


def _round(exact: Fraction, owed: Fraction, room: int) -> tuple[int, Fraction]:
    """Round an exact share plus what earlier roundings still owe: at least one image, at most `room`."""
    if not exact:
        return 0, owed
    half = Fraction(1, 2)
    take = min(max(1, floor(exact + owed + half)), room)
    return take, min(max(exact + owed - take, -half), half)


def _strided(
    groups: Sequence[Group], labels: Sequence[str], val: Fraction, test: Fraction, seed: int
) -> dict[str, Split]:
    """Over the sorted list, train and then val take evenly spaced images, the first included; test gets the rest.

    A train share of 1/n is every n-th image.
    """
    train, rest = _every(groups, 1 - val - test)
    validation, testing = _every(rest, val / (val + test))
    parts: list[tuple[Split, list[Group]]] = [("train", train), ("val", validation), ("test", testing)]
    return {path: name for name, part in parts for group in part for path in _paths(group)}


def _every(items: Sequence[T], share: Fraction) -> tuple[list[T], list[T]]:
    """An evenly spaced share of the items, starting with the first, and the others (Bresenham's rule)."""
    taken: list[T] = []
    others: list[T] = []
    for place, item in enumerate(items):
        (taken if ceil((place + 1) * share) > ceil(place * share) else others).append(item)
    return taken, others


def _shuffled(items: Iterable[T], seed: str) -> list[T]:
    # Python guarantees only for random() that later versions give the same numbers.
    generator = random.Random(seed)  # noqa: S311
    return [item for _, item in sorted(((generator.random(), item) for item in items), key=lambda pair: pair[0])]


def calibration(index: Index, count: int | None, seed: int) -> tuple[Sample, ...]:
    """Training images to observe activation ranges on, spread over the classes as evenly as possible.

    Args:
        index: the data set; only its training split is used, and its order does not matter.
        count: how many images; None: `USUAL`, or as many as there are.
        seed: a different seed picks different images.

    Raises:
        InputError: the training split has fewer images.
    """
    train = sorted(index.split("train"), key=lambda sample: sample.path)
    if count is None:
        count = min(USUAL, len(train))
    if count > len(train):
        raise InputError(f"quantize.calibration = {count}: the training split has {len(train)} images; ask for fewer")
    by_label: dict[int, list[Sample]] = defaultdict(list)
    for sample in _shuffled(train, f"{seed}"):
        by_label[sample.label].append(sample)
    classes = _shuffled(sorted(by_label), f"{seed}/classes")
    # First one image of each class, then a second of each, ...
    rounds = sorted((turn, place) for place, label in enumerate(classes) for turn in range(len(by_label[label])))
    return tuple(by_label[classes[place]][turn] for turn, place in rounds[:count])
