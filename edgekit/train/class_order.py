"""Whether given weights number the classes in another order than the data: read off the confusion matrix.

Trainers number class folders differently (torchvision and Keras sort names as text, timm naturally), and nothing in a
weights file says how. A network whose outputs stand for other classes scores near chance, or loses a few classes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import numpy.typing as npt

from edgekit.config.recipe import DataSection, Order
from edgekit.data import class_names
from edgekit.errors import InputError
from edgekit.types import Metrics

Counts = npt.NDArray[np.int64]
"""A confusion matrix, int64 [classes, classes]; row: true class, column: predicted class."""

_SIGMA = 3.0
_GAIN = 0.1
_ENOUGH = 10
"""Images for each class."""
_SHOWN = 20


@dataclass(frozen=True)
class Other:
    """An order of the classes that explains the errors."""

    word: str
    """``data.order`` for it, e.g. "natural"; empty if it has none."""
    names: tuple[str, ...]
    """The class that each output stands for."""
    top1: tuple[float, float]
    """In the order of the data, and in this one, on the same images; 0..1."""
    unseen: tuple[str, ...] = ()
    """Classes whose place is a guess: no image of theirs was recognised."""


def check(
    data: DataSection, labels: Sequence[str], metrics: Sequence[Metrics], more: Callable[[], Metrics | None]
) -> tuple[str, ...]:
    """Whether weights that are used unchanged mean the classes of the data, in its order.

    Args:
        data: where the order comes from.
        labels: class names in that order.
        metrics: scores on the validation and test images.
        more: scores on the training images, wanted where few are right and few were tried.

    Returns:
        A line for the reader if another order explains the errors.

    Raises:
        InputError: the same, if the recipe does not give the order although it could.
    """
    counts = np.sum([score.confusion for score in metrics], axis=0, dtype=np.int64, initial=0)
    counts = counts + np.zeros((len(labels), len(labels)), np.int64)
    few = counts.sum() < _ENOUGH * len(labels) and 2 * np.trace(counts) < counts.sum()
    if few and (extra := more()) is not None:
        counts = counts + np.array(extra.confusion)
    found = explained(counts, labels, {word: class_names.sort(labels, word) for word in get_args(Order)})
    if found is None:
        return ()
    before, after = found.top1
    guessed = f" (the places of {', '.join(found.unseen[:_SHOWN])} are a guess)" if found.unseen else ""
    shown = ", ".join(found.names[:_SHOWN]) + (", ..." if len(labels) > _SHOWN else "")
    text = (
        f"the weights seem to number the classes otherwise: of {counts.sum()} images {before:.1%} are right, and "
        f"{after:.1%} if the outputs stand, in {found.word or 'this'} order, for {shown}{guessed}"
    )
    if not class_names.are_found(data, labels):
        return (f"{text}; this data numbers its classes itself: reorder the rows of the network's classifier",)
    order = f'set data.order = "{found.word}"' if found.word else ""
    move = order or "give data.labels a file with the classes in that order"
    if data.labels is None and data.order is None:
        raise InputError(f'train: {text}; {move} (data.order = "text" keeps the order as it is)')
    return (f"{text}: {move}",)


def explained(confusion: npt.ArrayLike, labels: Sequence[str], orders: Mapping[str, Sequence[str]]) -> Other | None:
    """Look for an order of the classes in which the network would be right far more often.

    First the orders that have a name. Then the best assignment of outputs to classes (Kuhn, "The Hungarian method for
    the assignment problem", 1955), which always fits the images it was found on: it is found on one half and judged on
    the other, both ways. Each has to win 10 points of top-1 over the one before, and three standard deviations of the
    sign test over the images on which the two disagree.

    Args:
        confusion: counts of images, [classes, classes]; rows are true classes.
        labels: class names in the order of the data.
        orders: other orders of the same names, by their words in ``data.order``.
    """
    counts = np.asarray(confusion, np.int64)
    total = int(counts.sum())
    place, best = np.arange(len(labels)), ""
    for word, names in orders.items():
        named = np.array([labels.index(name) for name in names])
        if _beats(*_wins(_moved(counts, place), named[np.argsort(place)]), total):
            place, best = named, word
    if _better_elsewhere(_moved(counts, place)):
        place, best = _assignment(_moved(counts, place))[place], ""
    if not (place != np.arange(len(labels))).any():
        return None
    unseen = (
        tuple(labels[int(place[output])] for output in np.flatnonzero(_diagonal(counts, place) == 0))
        if not best
        else ()
    )
    top1 = float(np.trace(counts)) / total, float(_diagonal(counts, place).sum()) / total
    return Other(best, tuple(labels[int(number)] for number in place), top1, unseen)


def _diagonal(counts: Counts, place: Counts) -> Counts:
    """Images of each output that are right if output j stands for class ``place[j]``."""
    found: Counts = counts[place, np.arange(len(place))]
    return found


def _moved(counts: Counts, place: Counts) -> Counts:
    """The same matrix with each output in the column of the class that it stands for."""
    moved = np.empty_like(counts)
    moved[:, place] = counts
    return moved


def _wins(counts: Counts, place: Counts) -> tuple[int, int]:
    """Images that are right in the other order alone, and in the present one alone."""
    moved = place != np.arange(len(place))
    return int(_diagonal(counts, place)[moved].sum()), int(np.diag(counts)[moved].sum())


def _beats(won: int, lost: int, total: int) -> bool:
    return won - lost >= _GAIN * total and won - lost > _SIGMA * (won + lost) ** 0.5


def _better_elsewhere(counts: Counts) -> bool:
    """Whether assignments found on one half of the images are better on the other half."""
    images = [cell for cell, count in enumerate(counts.flat) for _ in range(count)]
    random.Random(0).shuffle(images)  # noqa: S311
    size = len(counts)
    halves = [
        np.bincount(np.array(images[start::2], np.int64), minlength=size * size).reshape(size, size) for start in (0, 1)
    ]
    pairs = [_wins(seen, _assignment(found)) for found, seen in (halves, halves[::-1])]
    return _beats(sum(won for won, _ in pairs), sum(lost for _, lost in pairs), len(images))


def _assignment(counts: Counts) -> Counts:
    """The class for each output with which most images are right; where nothing speaks against it, its own."""
    from scipy.optimize import linear_sum_assignment

    weights = counts * (2 * len(counts)) + np.eye(len(counts), dtype=np.int64)
    classes, outputs = linear_sum_assignment(weights, maximize=True)
    place = np.empty(len(counts), np.int64)
    place[outputs] = classes
    return place
