"""Has the evidence moved? How alike maps are, and how alike they would have to be.

There is no rank correlation that is low in itself: it depends on the network, the images and the grid. The yardstick is
the float network's own evidence on a grid that is shifted by half a patch, in the same run. A file's evidence has moved
if it is less like float's than float's is to itself: on this image, and on all but the lowest 5 % of images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from edgekit.explain.network import Floats
from edgekit.explain.records import Yardstick
from edgekit.verdict import intervals

LEVEL = 0.05
FINE = 1e-5
"""Steps in which values are ranked, of a map's largest: finer is round-off, which differs between processors."""


def correlations(maps: Sequence[Floats]) -> Floats:
    """Spearman's rank correlation of each map with each, -1..1; 0 if one has the same value everywhere.

    Args:
        maps: of one shape.

    Returns:
        float64 (maps, maps).
    """
    values = np.array([each.ravel() for each in maps])
    steps = FINE * np.abs(values).max(1, keepdims=True)
    ranks = stats.rankdata(np.rint(values / np.where(steps > 0, steps, 1)), axis=1)
    away = ranks - ranks.mean(1, keepdims=True)
    sizes = np.sqrt((away**2).sum(1, keepdims=True))
    away /= np.where(sizes > 0, sizes, 1)
    found: Floats = away @ away.T
    return found


def correlation(a: Floats, b: Floats) -> float:
    """That of two maps."""
    return float(correlations([a, b])[0, 1])


def repeats(repeat: float, cells: int) -> bool:
    """Whether a correlation of maps with so many patches is above chance: one-sided, at `LEVEL`."""
    return repeat * math.sqrt(max(cells - 1, 1)) > float(stats.norm.isf(LEVEL))


def yardstick(maps: Sequence[Floats], own: Sequence[float], clear: Sequence[bool]) -> Yardstick:
    """What float's evidence in the sample says about correlations.

    Args:
        maps: float's evidence in each image.
        own: its correlation with itself on the shifted grid.
        clear: which of them are above chance.
    """
    good = [value for value, is_clear in zip(own, clear, strict=True) if is_clear]
    if not good:
        return Yardstick(float(np.median(own)) if len(own) else None, None, None)
    limit = float(np.quantile(good, LEVEL))
    stick = Yardstick(float(np.median(own)), limit, None)
    alike = correlations(maps)
    pairs = [
        moved(alike[here, there], own[here], stick)
        for here, is_clear in enumerate(clear)
        if is_clear
        for there in range(len(maps))
        if there != here
    ]
    return Yardstick(stick.repeat, limit, float(np.mean(pairs)) if pairs else None)


def moved(alike: float, repeat: float, stick: Yardstick) -> bool:
    """Whether evidence that correlates so much with float's has moved, in an image that is clear."""
    return stick.limit is not None and alike < min(stick.limit, repeat)


def share(count: int, of: int) -> tuple[float, float, float] | None:
    """A share and its 95 % interval; None of nothing."""
    if not of:
        return None
    return count / of, *intervals.share(count, of)


def mean(values: Sequence[float]) -> tuple[float, float, float] | None:
    """A mean and its 95 % interval by Student's t; None of fewer than two values."""
    if len(values) < 2:
        return None
    middle = float(np.mean(values))
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return middle, middle - half, middle + half
