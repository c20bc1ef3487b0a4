"""Too much light."""

import numpy as np

from edgekit.verify.port import Pixels, rounded, severity

ADDED = (0.05, 0.15, 0.3), (0.1, 0.3, 0.5)
"""What is added to the value (of hue, saturation and value), on a 0..1 scale."""


def apply(pixels: Pixels, level: int, generator: np.random.Generator) -> Pixels:
    """Raise the value of each pixel; its hue and saturation stay."""
    levels = pixels / 255
    value = levels.max(2, keepdims=True)
    raised = np.minimum(value + severity(ADDED, level, pixels), 1)
    return rounded(np.where(value > 0, levels * raised / np.maximum(value, 1 / 255), raised))
