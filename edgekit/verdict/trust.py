"""Whether the scores behind a verdict mean anything. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Sequence

LEVEL = 0.95
"""Confidence at which a score has to be better than guessing, and a bound to be shown."""


def chance(top1: float, support: Sequence[int]) -> str:
    """A warning if a network may just as well be guessing; else "".

    The best guess without looking is always the class with the most images. A network is better if so many hits or
    more would be unlikely for that guess: the exact one-sided binomial test at `LEVEL`.

    Args:
        top1: share of hits, 0..1.
        support: images of each class.
    """
    images, most = sum(support), max(support, default=0)
    if not images:
        return ""
    if most == images:
        return f"all {images} images are of one class, so that top-1 says nothing"
    if at_least(round(top1 * images), images, most / images) < 1 - LEVEL:
        return ""
    return (
        f"top-1 of {top1:.1%} on {images} images is no better than guessing: naming the most frequent class each time "
        f"gives {most / images:.1%}"
    )


def resolution(images: int, max_drop: float) -> str:
    """A warning if a split is too small for a bound on the loss of top-1 to mean anything; else "".

    If a single image is more than `max_drop` points, the bound allows no error at all. And no error among n images
    shows a loss below d only if (1 - d)^n is below 5 %: the "rule of three" (Hanley and Lippman-Hand, "If Nothing Goes
    Wrong, Is Everything All Right?", JAMA 249, 1983).

    Args:
        images: in the split.
        max_drop: points of top-1, 0..100; 0 asks for no error, which any split can show or not.
    """
    if not images or not 0 < max_drop < 100 or 100 / images <= max_drop:
        return ""
    one, shown = math.ceil(100 / max_drop), math.ceil(math.log(1 - LEVEL) / math.log1p(-max_drop / 100))
    return (
        f"one of {images} images is {100 / images:.3g} points of top-1, more than quantize.max_drop = {max_drop:g}: "
        f"it takes {one} images for one error to be allowed, and {shown} without any to show that no more is lost "
        f"({LEVEL:.0%} confidence)"
    )


def at_least(hits: int, trials: int, share: float) -> float:
    """Probability of `hits` or more in `trials` independent ones with probability `share` (between 0 and 1) each."""
    logs = (
        math.lgamma(trials + 1) - math.lgamma(n + 1) - math.lgamma(trials - n + 1)
        + n * math.log(share) + (trials - n) * math.log1p(-share)
        for n in range(hits, trials + 1)
    )  # fmt: skip
    return min(1.0, math.fsum(map(math.exp, logs)))
