"""Too little contrast, as in fog."""

import numpy as np

from edgekit.verify.port import Pixels, rounded, severity

KEPT = (0.75, 0.4, 0.15), (0.4, 0.2, 0.05)
"""Share of the distance from the mean of the image that is kept."""


def apply(pixels: Pixels, level: int, generator: np.random.Generator) -> Pixels:
    """Move every value towards the mean of its channel."""
    levels = pixels / 255
    mean = levels.mean((0, 1), keepdims=True)
    return rounded(mean + (levels - mean) * severity(KEPT, level, pixels))
