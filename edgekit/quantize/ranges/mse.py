"""Ranges with the least squared quantization error over the values seen; each end is chosen separately.

The error is summed over the histogram for a grid of candidate ends, then for a finer grid around the best pair.
"""

from __future__ import annotations

import torch

from edgekit.quantize.histogram import Cost, Histogram, Range, squared_error

CANDIDATES = 24
NARROWEST = 0.2
"""Least share of the full range to which an end may shrink."""


def limits(seen: Histogram, cost: Cost) -> Range:
    """The range of one activation tensor."""
    values, counts = seen.filled()
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    if low == high:
        return Range(low, high, "mse")
    shares = [(NARROWEST, 1.0), (NARROWEST, 1.0)]
    best = (1.0, 1.0)
    for _ in range(3):
        lows, highs = (
            torch.linspace(start, end, CANDIDATES if whole else 1, dtype=torch.float64)
            for (start, end), whole in zip(shares, (low, high), strict=True)
        )
        pairs = torch.cartesian_prod(lows, highs)
        errors = squared_error(values, counts, pairs[:, 0] * low, pairs[:, 1] * high)
        best = tuple(pairs[errors.argmin()].tolist())  # among equals, the narrowest
        reach = (shares[0][1] - shares[0][0]) / (CANDIDATES - 1)
        shares = [(max(end - reach, NARROWEST), min(end + reach, 1.0)) for end in best]
    return Range(best[0] * low, best[1] * high, "mse")
