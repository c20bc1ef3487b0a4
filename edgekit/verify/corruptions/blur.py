"""Gaussian blur, as of a lens out of focus."""

import numpy as np
from PIL import Image, ImageFilter

from edgekit.data.transforms import array
from edgekit.verify.port import Pixels, severity

SIGMA = (0.4, 0.7, 1.0), (1.0, 3.0, 6.0)
"""Standard deviation in pixels."""


def apply(pixels: Pixels, level: int, generator: np.random.Generator) -> Pixels:
    """Smooth."""
    image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    return array(image.filter(ImageFilter.GaussianBlur(severity(SIGMA, level, pixels))))
