"""Too much light."""

import numpy as np

from edgekit.verify.port import Pixels, rounded

ADDED = (0.1, 0.3, 0.5)
"""What is added to the value (of hue, saturation and value) by level, on a 0..1 scale."""


def apply(pixels: Pixels, level: int, generator: np.random.Generator) -> Pixels:
    """Raise the value of each pixel; its hue and saturation stay."""
    levels = pixels / 255
    value = levels.max(2, keepdims=True)
    raised = np.minimum(value + ADDED[level - 1], 1)
    return rounded(np.where(value > 0, levels * raised / np.maximum(value, 1 / 255), raised))
