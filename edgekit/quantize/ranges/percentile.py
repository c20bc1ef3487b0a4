"""Ranges that leave out the `TAIL` share of the values at each end: single outliers cost no resolution.

The idea is McKinstry et al.'s ("Discovering Low-Precision Networks Close to Full-Precision Networks", 2018); the share
is the default of the engines' own tools (99.99 %). An end at zero stays there, as after a relu.
"""

from __future__ import annotations

import torch

from edgekit.quantize.histogram import Cost, Histogram, Range

TAIL = 1e-4


def limits(seen: Histogram, cost: Cost) -> Range:
    """The range of one activation tensor, to the width of a bin of its histogram."""
    values, counts = seen.filled()
    if not len(values):
        return Range(0.0, 0.0, "percentile")
    below = counts.cumsum(0) / counts.sum()
    above = counts.flip(0).cumsum(0).flip(0) / counts.sum()
    low = values[torch.nonzero(below > TAIL)[0, 0]]
    high = values[torch.nonzero(above > TAIL)[-1, 0]]
    return Range(seen.low if seen.low >= 0 else float(low), seen.high if seen.high <= 0 else float(high), "percentile")
