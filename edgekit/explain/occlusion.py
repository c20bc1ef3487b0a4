"""What hiding parts of an image does to a network's answer: maps of evidence, insertion and deletion.

Only answers are needed, so that torch and any file in any engine are asked by the same code, and their maps compare.

Source: Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014 (occlusion); Zintgraf et
al., "Visualizing Deep Neural Network Decisions: Prediction Difference Analysis", ICLR 2017 (log odds, the weight of
evidence); Petsiuk, Das and Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018
(insertion and deletion).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.explain.network import Array, Floats, Network, log_odds, probabilities
from edgekit.explain.records import Areas

HIDDEN = np.float32(0)
"""What a hidden pixel becomes: the mean that preprocessing subtracts."""
STEPS = 10
"""Of an insertion or deletion."""
CURVES = 2 * (STEPS + 1)
"""Inferences for the two areas of one order."""


@dataclass(frozen=True)
class Grid:
    """Patches that cover an image without overlap."""

    rows: tuple[int, ...]
    """Their edges in pixels, from 0 to the height."""
    columns: tuple[int, ...]
    """Likewise, to the width."""

    @property
    def shape(self) -> tuple[int, int]:
        """How many there are, down and across."""
        return len(self.rows) - 1, len(self.columns) - 1

    @property
    def cells(self) -> int:
        """How many there are."""
        return math.prod(self.shape)

    @property
    def shifted(self) -> Grid:
        """The grid moved by half a patch; what sticks out is cut off, so that there is one more in each direction."""
        return Grid(_halved(self.rows), _halved(self.columns))


def grid(height: int, width: int, side: int) -> Grid:
    """About ``side * side`` patches that are about square, none smaller than a pixel."""
    patch = math.sqrt(height * width) / side
    return Grid(_edges(height, patch), _edges(width, patch))


def _edges(length: int, patch: float) -> tuple[int, ...]:
    count = min(max(round(length / patch), 1), length)
    return tuple(round(place * length / count) for place in range(count + 1))


def _halved(edges: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted({0, *((low + high) // 2 for low, high in pairwise(edges)), edges[-1]}))


def views(image: Array, hide: npt.NDArray[np.bool_], patches: Grid) -> Array:
    """Copies of an image with patches hidden.

    Args:
        image: float32 (channels, height, width), normalised.
        hide: which patches, bool (n, rows, columns).
        patches: of that shape.

    Returns:
        float32 (n, channels, height, width).
    """
    pixels = hide.repeat(np.diff(patches.rows), 1).repeat(np.diff(patches.columns), 2)
    return np.where(pixels[:, None], HIDDEN, image)


def evidence(network: Network, image: Array, label: int, patches: Grid) -> Floats:
    """The log odds of a class that hiding each patch takes away: float64, of the grid's shape.

    Positive where the patch speaks for the class, negative where it speaks against it.
    """
    hide = np.eye(1 + patches.cells, patches.cells, -1, np.bool_).reshape(-1, *patches.shape)  # first of all nothing
    odds = log_odds(network.logits(views(image, hide, patches)), label)
    lost: Floats = (odds[0] - odds[1:]).reshape(patches.shape)
    return lost


def resampled(values: Floats, source: Grid, target: Grid) -> Floats:
    """A map on another grid: the mean of its pixels in each patch there."""
    found: Floats = _shares(target.rows, source.rows) @ values @ _shares(target.columns, source.columns).T
    return found


def _shares(of: tuple[int, ...], by: tuple[int, ...]) -> Any:
    """How much of each interval lies in each of the others, 0..1."""
    low, high = np.maximum.outer(of[:-1], by[:-1]), np.minimum.outer(of[1:], by[1:])
    return np.clip(high - low, 0, None) / np.diff(of)[:, None]


def areas(network: Network, image: Array, label: int, patches: Grid, importance: Floats) -> Areas:
    """How fast a class appears or vanishes as patches are shown or hidden, the most important first.

    Args:
        network: is asked.
        image: float32 (channels, height, width), normalised.
        label: the class.
        patches: what is shown or hidden at once.
        importance: of that shape; its order alone matters.

    Returns:
        The areas below the class's probability over the share of the image that is shown or hidden.
    """
    steps = np.unique(np.linspace(0, patches.cells, STEPS + 1).round())
    rank = np.argsort(np.argsort(-importance, axis=None, kind="stable")).reshape(patches.shape)
    first = rank < steps[:, None, None]
    seen = probabilities(network.logits(views(image, np.concatenate([~first, first]), patches)))[:, label]
    sizes = np.outer(np.diff(patches.rows), np.diff(patches.columns))
    share = (first * sizes).sum((1, 2)) / sizes.sum()
    inserted, deleted = np.split(seen, 2)
    return Areas(float(np.trapezoid(inserted, share)), float(np.trapezoid(deleted, share)))
