"""Ranges that preserve the distribution of values: least Kullback-Leibler divergence of the quantized histogram.

Migacz's method for TensorRT ("8-bit Inference with TensorRT", GTC 2017), which shrinks a symmetric range: for each
candidate, what is clipped is added to the outermost bins, the rest is averaged over each int8 level, and the two
distributions are compared. Here both ends shrink by the same share, as the grid is affine, and the bin that holds zero
takes its neighbour's count: zero is always exact, and after a relu it would outweigh everything else.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgekit.quantize.histogram import BINS, Cost, Histogram, Range

LEVELS = 256
CANDIDATES = 128
NARROWEST = 0.1


def limits(seen: Histogram, cost: Cost) -> Range:
    """The range of one activation tensor."""
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    if low == high:
        return Range(low, high, "entropy")
    counts, centres = _spread(seen, low, high)
    least, best = torch.inf, 1.0
    for share in torch.linspace(1.0, NARROWEST, CANDIDATES, dtype=torch.float64).tolist():
        distance = divergence(counts, (centres >= low * share) & (centres <= high * share))
        if distance < least:
            least, best = distance, share
    return Range(best * low, best * high, "entropy")


def _spread(seen: Histogram, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Counts and centres of all bins over [low, high], with the bin at zero smoothed."""
    first, exponent = seen.place.tolist()
    centres = (torch.arange(first, first + BINS).double() + 0.5) * 2.0**exponent
    counts = seen.counts.double()
    if 0 <= -first < BINS:
        counts[-first] = counts[min(-first + 1, BINS - 1)]
    inside = (centres > low - 2.0**exponent) & (centres < high + 2.0**exponent)
    return counts[inside], centres[inside]


def divergence(counts: Tensor, kept: Tensor) -> float:
    """KL divergence (nats) from the clipped distribution to the quantized one.

    Args:
        counts: (N,) histogram.
        kept: (N,) which bins lie in the candidate range; they are contiguous.
    """
    inside = counts[kept]
    if not float(inside.sum()):
        return torch.inf
    places = kept.nonzero().flatten()
    clipped = inside.clone()
    clipped[0] += counts[: places[0]].sum()
    clipped[-1] += counts[places[-1] + 1 :].sum()
    level = torch.arange(len(inside)) * LEVELS // len(inside)
    filled = (inside > 0).double()
    totals = torch.zeros(LEVELS, dtype=torch.float64).index_add_(0, level, inside)
    bins = torch.zeros(LEVELS, dtype=torch.float64).index_add_(0, level, filled)
    quantized = (totals / bins.clamp(min=1))[level] * filled
    p, q = clipped / clipped.sum(), quantized / quantized.sum()
    q = torch.where((p > 0) & (q == 0), torch.tensor(1e-9, dtype=torch.float64), q)
    return float(torch.where(p > 0, p * (p / q.clamp(min=1e-12)).log(), 0.0).sum())
