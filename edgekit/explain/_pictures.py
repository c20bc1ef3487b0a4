"""Maps laid over images, as pictures inside a page."""

from __future__ import annotations

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.Image import Resampling

from edgekit.data.dataset import Pixels
from edgekit.explain.records import Map

SIDE, QUALITY = 144, 78
"""Pixels of a picture's longer side, and its JPEG quality: about 5 kB each."""
FOR, AGAINST = (214, 36, 36), (30, 90, 220)
"""Colours of evidence, which people who confuse red and green tell apart."""
STRONGEST = 0.72
"""Share of the colour where a map is at its largest."""


def plain(pixels: Pixels) -> str:
    """An image, uint8 [height, width, channels], as a data URI."""
    return _uri(_sized(pixels))


def overlaid(pixels: Pixels, values: Map) -> str:
    """A map over the image in grey, as a data URI; its own largest value has the strongest colour."""
    image = _sized(pixels)
    grey = np.asarray(image.convert("L").convert("RGB"), np.float64)
    heat = np.asarray(values, np.float64)
    largest = np.abs(heat).max() or 1.0
    smooth = Image.fromarray((heat / largest).astype(np.float32)).resize(image.size, Resampling.BILINEAR)
    strength = np.asarray(smooth)[..., None]
    colour = np.where(strength > 0, np.array(FOR), np.array(AGAINST))
    share = STRONGEST * np.abs(strength)
    return _uri(Image.fromarray(np.rint(grey * (1 - share) + colour * share).astype(np.uint8)))


def _sized(pixels: Pixels) -> Image.Image:
    """In RGB, enlarged or reduced to `SIDE`; single pixels of a small image stay visible."""
    flat: npt.NDArray[np.uint8] = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    image = Image.fromarray(flat)
    scale = SIDE / max(image.size)
    size = max(round(scale * image.width), 1), max(round(scale * image.height), 1)
    return image.convert("RGB").resize(size, Resampling.NEAREST if scale > 1 else Resampling.LANCZOS)


def _uri(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
