"""Gaussian blur, as of a lens out of focus."""

import numpy as np
from PIL import Image, ImageFilter

from edgekit.data.transforms import array
from edgekit.verify.port import SIDE, Pixels

SIGMA = (1.0, 3.0, 6.0)
"""Standard deviation by level, in pixels of an image of `SIDE`."""


def apply(pixels: Pixels, level: int, generator: np.random.Generator) -> Pixels:
    """Smooth by the same share of the image, whatever its size."""
    sigma = SIGMA[level - 1] * min(pixels.shape[:2]) / SIDE
    image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    return array(image.filter(ImageFilter.GaussianBlur(sigma)))
