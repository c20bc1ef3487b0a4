"""Perceptual hashes, and the pairs of images that look the same by them and by their embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.Image import Image

Bits = npt.NDArray[np.bool_]
_SIDE, _LOW = 64, 16
"""Pixels of a side that a hash looks at, and frequencies of each direction that it keeps."""
BITS = _LOW * _LOW - 1
SURELY, UNLIKE = 0.15, 0.4
"""Images are alike if this share of the bits differs at most, unless the cosine of their embeddings is below that."""
PERHAPS, ALIKE = 0.25, 0.85
"""And if this share differs at most, and the cosine is that at least."""
_ROWS = 1024


def perceptual(image: Image) -> Bits:
    """The pHash of an image: signs of its low frequencies against their median, shape (`BITS`,).

    Changes of size, brightness and contrast and recompression flip few bits.

    Source: Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010.
    """
    from PIL.Image import Resampling
    from scipy.fft import dctn

    grey = np.asarray(image.convert("L").resize((_SIDE, _SIDE), Resampling.LANCZOS), np.float64)
    waves = dctn(grey, norm="ortho")[:_LOW, :_LOW].ravel()[1:]
    bits: Bits = waves > np.median(waves)
    return bits


def pairs(hashes: Bits, features: npt.NDArray[np.float32] | None) -> tuple[tuple[int, int], ...]:
    """Near-duplicates: their hashes differ in few bits, and their embeddings, if there are any, point the same way.

    Cosines are of embeddings less their mean, as all of a network's point into one direction. On TrashNet, photographs
    of different things differ in 34 % of the bits and more (all but one pair in a thousand), and copies that were
    resized, recompressed or brightened in 22 % at most.

    Args:
        hashes: shape (images, bits).
        features: shape (images, features), or None.

    Returns:
        Places of two images, the smaller first, in ascending order.
    """
    signs = np.where(hashes, np.float32(1), np.float32(-1))
    found, differ = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.float32)]
    for start in range(0, len(signs), _ROWS):
        shares = 0.5 - signs[start : start + _ROWS] @ signs[start:].T / (2 * hashes.shape[1])
        near = np.argwhere(np.triu(shares <= (SURELY if features is None else PERHAPS), 1))
        found.append(near + start)
        differ.append(shares[near[:, 0], near[:, 1]])
    candidates, share = np.concatenate(found), np.concatenate(differ)
    if features is not None and len(candidates):
        away = features - features.mean(0)
        away /= np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-12)
        cosine = np.einsum("ij,ij->i", away[candidates[:, 0]], away[candidates[:, 1]])
        candidates = candidates[cosine >= np.where(share <= SURELY, UNLIKE, ALIKE)]
    return tuple((int(left), int(right)) for left, right in candidates)


def groups(count: int, found: tuple[tuple[int, int], ...]) -> npt.NDArray[np.int64]:
    """A number for each of `count` images, the same for those that a chain of pairs connects; shape (count,)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = np.array(found, np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(ends.shape[1], np.int8), (ends[0], ends[1])), shape=(count, count))
    numbers: npt.NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return numbers
