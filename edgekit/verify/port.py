"""What every corruption offers."""

from __future__ import annotations

from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from edgekit import choices

Pixels = npt.NDArray[np.uint8]
LEVELS = (1, 2, 3)
"""Slight, clear and severe: severities 1, 3 and 5 of ImageNet-C and CIFAR-10-C."""
SMALL, LARGE = 32, 224
"""Pixels of the sides of their images."""
Severities = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Of CIFAR-10-C and of ImageNet-C, by level."""


class Corruption(Protocol):
    """A module of ``edgekit/verify/corruptions``."""

    def apply(self, pixels: Pixels, level: int, generator: np.random.Generator) -> Pixels:
        """Make an image worse.

        Args:
            pixels: uint8 [height, width, channels] of the network's input size, 1 channel (grey) or 3 (RGB).
            level: one of `LEVELS`.
            generator: for what is random; seeded for this image, corruption and level.

        Returns:
            A new array of the same shape.
        """


def corruption(name: str) -> Corruption:
    """The module of ``edgekit/verify/corruptions`` with that name."""
    return cast(Corruption, choices.pick("edgekit.verify.corruptions", name, "verify.corruptions"))


def severity(known: Severities, level: int, pixels: Pixels) -> float:
    """How strong a corruption is on an image of this size: what both data sets use at theirs, and between them.

    A blur of six pixels, or noise that a large image averages out, would leave nothing of a small one.

    Source: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
    ICLR 2019, and its code.
    """
    small, large = known[0][level - 1], known[1][level - 1]
    share = np.log(min(pixels.shape[:2]) / SMALL) / np.log(LARGE / SMALL)
    return float(small * (large / small) ** np.clip(share, 0, 1))


def rounded(values: npt.NDArray[np.float64]) -> Pixels:
    """Levels 0..1 as 8-bit pixels."""
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
