"""Gaussian noise, as of a sensor in poor light."""

import numpy as np

from edgekit.verify.port import Pixels, rounded, severity

SIGMA = (0.04, 0.08, 0.10), (0.08, 0.18, 0.38)
"""Standard deviation, on a 0..1 scale."""


def apply(pixels: Pixels, level: int, generator: np.random.Generator) -> Pixels:
    """Add noise to every value independently."""
    return rounded(pixels / 255 + generator.normal(0, severity(SIGMA, level, pixels), pixels.shape))
