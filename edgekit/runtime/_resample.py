"""Pillow's antialiased resize in NumPy, for devices without Pillow: bit for bit the same."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

_BITS = 32 - 8 - 2  # fixed-point fraction of a coefficient, as in Pillow
_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}


def resize(pixels: npt.NDArray[np.uint8], width: int, height: int, interpolation: str) -> npt.NDArray[np.uint8]:
    """Resize an image as ``Image.resize`` does: convolution with a kernel as wide as the step between output pixels.

    One side after the other, rounded to uint8 in between; coefficients are integers of 22 fractional bits. Which side
    comes first follows Pillow 13. Before 13 it was always the width, so images more than twice as tall as wide may
    differ by the rounding in between.

    Source: Pillow, src/libImaging/Resample.c.

    Args:
        pixels: uint8 [height, width, channels].
        width: width of the result.
        height: its height; a side that stays the same is not filtered.
        interpolation: bilinear or bicubic (a = -0.5).

    Returns:
        uint8 [height, width, channels].
    """
    old_height, old_width = pixels.shape[:2]
    if old_height > height and old_height - height > 2 * (old_width - width):
        return _rows(_columns(pixels, height, interpolation), width, interpolation)
    return _columns(_rows(pixels, width, interpolation), height, interpolation)


def resize_alpha(pixels: npt.NDArray[np.uint8], width: int, height: int, interpolation: str) -> npt.NDArray[np.uint8]:
    """`resize` for an image whose last channel is alpha: colours are multiplied with it before and divided after.

    Source: Pillow, src/libImaging/Convert.c (rgbA2rgba, rgba2rgbA).
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    colour, alpha = pixels[:, :, :-1].astype(np.uint32), pixels[:, :, -1:]
    product = colour * alpha + 128
    weighted = (((product >> 8) + product) >> 8).astype(np.uint8)
    resized = resize(np.concatenate([weighted, alpha], 2), width, height, interpolation)
    weighted, alpha = resized[:, :, :-1], resized[:, :, -1:]
    partial = (alpha > 0) & (alpha < 255)
    straight = np.minimum(weighted.astype(np.uint32) * 255 // np.maximum(alpha, 1), 255).astype(np.uint8)
    return np.concatenate([np.where(partial, straight, weighted), alpha], 2)


def _rows(pixels: npt.NDArray[np.uint8], size: int, interpolation: str) -> npt.NDArray[np.uint8]:
    """Resize along the second axis."""
    turned = _columns(np.ascontiguousarray(pixels.transpose(1, 0, 2)), size, interpolation)
    return np.ascontiguousarray(turned.transpose(1, 0, 2))


def _columns(pixels: npt.NDArray[np.uint8], size: int, interpolation: str) -> npt.NDArray[np.uint8]:
    """Resize along the first axis."""
    if pixels.shape[0] == size:
        return pixels
    first, taps = _coefficients(pixels.shape[0], size, interpolation)
    result = np.empty((size, *pixels.shape[1:]), np.uint8)
    for out in range(size):
        weights = taps[out]
        window = pixels[first[out] : first[out] + len(weights)]
        total = np.tensordot(weights, window.astype(np.int32), 1)  # at most 255 * 2^24: int32 holds it
        total += 1 << (_BITS - 1)
        result[out] = (total >> _BITS).clip(0, 255)
    return result


def _coefficients(old: int, new: int, interpolation: str) -> tuple[list[int], list[npt.NDArray[np.int32]]]:
    """For each output pixel, the first input pixel in its window and the weights from there on."""
    scale = old / new
    stretch = max(scale, 1.0)
    support = _SUPPORT[interpolation] * stretch
    kernel = _triangle if interpolation == "bilinear" else _cubic
    first, taps = [], []
    for out in range(new):
        centre = (out + 0.5) * scale
        low = max(int(centre - support + 0.5), 0)
        high = min(int(centre + support + 0.5), old)
        weights = [kernel((x - centre + 0.5) * (1.0 / stretch)) for x in range(low, high)]
        total = 0.0
        for weight in weights:  # not sum(): newer Pythons compensate the rounding
            total += weight
        scaled = [weight / total * (1 << _BITS) for weight in weights]
        first.append(low)
        taps.append(np.array([int(math.copysign(0.5, weight) + weight) for weight in scaled], np.int32))
    return first, taps


def _triangle(x: float) -> float:
    return max(1.0 - abs(x), 0.0)


def _cubic(x: float) -> float:
    a, x = -0.5, abs(x)
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    if x < 2.0:
        return (((x - 5) * x + 8) * x - 4) * a
    return 0.0
