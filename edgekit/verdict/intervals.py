"""Confidence intervals of scores on images, as those who took other images would have got other scores.

Standard library only, plus numpy where images are drawn again.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from edgekit.scores import Difference

if TYPE_CHECKING:
    import numpy.typing as npt

ALPHA = 0.05
"""Share of cases in which an interval may miss."""
Z = 1.959964
"""Of the normal distribution at `ALPHA`, on both sides."""
DRAWS, FEWER = 20_000, 1000
"""Resamples of a bootstrap: of a mean, and of what takes longer."""


def share(hits: float, trials: int) -> tuple[float, float]:
    """Ends of a 95 % interval of a share, 0..1; of no trials, all of it.

    Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22, 1927: unlike a bootstrap,
    it is right for shares near 0 and 1, too.
    """
    if not trials:
        return 0.0, 1.0
    middle = (hits + Z * Z / 2) / (trials + Z * Z)
    half = Z / (trials + Z * Z) * math.sqrt(hits * (trials - hits) / trials + Z * Z / 4)
    return (middle - half if hits else 0.0), (middle + half if hits < trials else 1.0)


def difference(lost: npt.NDArray[Any], alpha: float = ALPHA) -> Difference:
    """The mean of a paired difference in points, with a bootstrap interval.

    Half an image that lost and half an image that won are added, as in Agresti and Min, "Simple improved confidence
    intervals for comparing matched proportions", Statistics in Medicine 24, 2005: otherwise four images that differ,
    all in one direction, would count as proof.

    Args:
        lost: of each image, how much is lost, -2..2.
        alpha: share of cases in which the interval may miss.
    """
    import numpy as np

    values, counts = np.unique(np.concatenate([lost, lost, [1, -1]]), return_counts=True)
    generator = np.random.default_rng(0)
    size = len(lost) + 1
    means = generator.multinomial(size, counts / counts.sum(), DRAWS) @ values / size
    low, high = np.quantile(means, (alpha / 2, 1 - alpha / 2))
    return Difference(100 * float(lost.mean()), 100 * float(low), 100 * float(high))


def macro(confusion: npt.NDArray[Any]) -> dict[str, tuple[float, float]]:
    """Ends of 95 % intervals of macro precision, recall and F1: percentiles of a bootstrap over the images.

    Args:
        confusion: int64 [classes, classes], row: true class, column: predicted class.
    """
    import numpy as np

    classes, images = len(confusion), int(confusion.sum())
    true, guessed = np.nonzero(confusion)
    chances = confusion[true, guessed] / images
    right, generator = true == guessed, np.random.default_rng(0)
    found = np.empty((FEWER, 3))
    for row in found:
        drawn = generator.multinomial(images, chances)
        hits = np.bincount(true[right], drawn[right], classes)
        support, guesses = np.bincount(true, drawn, classes), np.bincount(guessed, drawn, classes)
        row[:] = [scores.mean() for scores in ratios(hits, support, guesses)]
    ends = np.quantile(found, (ALPHA / 2, 1 - ALPHA / 2), axis=0).T
    return {name: (float(low), float(high)) for name, (low, high) in zip(NAMES, ends, strict=True)}


NAMES = ("precision", "recall", "f1")


def ratios(
    hits: npt.NDArray[Any], support: npt.NDArray[Any], guesses: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Precision, recall and F1 of each class, 0 where the denominator is.

    Args:
        hits: images of each class that were recognised.
        support: images of each class.
        guesses: images taken for each class.
    """
    return _ratio(hits, guesses), _ratio(hits, support), _ratio(2 * hits, support + guesses)


def _ratio(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> npt.NDArray[Any]:
    import numpy as np

    found: npt.NDArray[Any] = np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)
    return found
