"""Strong JPEG compression."""

import io

import numpy as np
from PIL import Image

from edgekit.data.transforms import array
from edgekit.verify.port import Pixels, severity

QUALITY = (80, 58, 40), (25, 15, 7)
"""Pillow's quality."""


def apply(pixels: Pixels, level: int, generator: np.random.Generator) -> Pixels:
    """Compress and decode."""
    stream = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(
        stream, "JPEG", quality=round(severity(QUALITY, level, pixels))
    )
    with Image.open(stream) as image:
        return array(image)
