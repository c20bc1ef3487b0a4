"""What every corruption offers."""

from __future__ import annotations

from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from edgekit import choices

Pixels = npt.NDArray[np.uint8]
LEVELS = (1, 2, 3)
"""Slight, clear and severe: severities 1, 3 and 5 of ImageNet-C (Hendrycks and Dietterich, ICLR 2019)."""
SIDE = 224
"""Pixels of the side of ImageNet-C's images: what spreads over pixels is scaled from there."""


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


def rounded(values: npt.NDArray[np.float64]) -> Pixels:
    """Levels 0..1 as 8-bit pixels."""
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
