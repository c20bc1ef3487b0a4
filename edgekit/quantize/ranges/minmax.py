"""Ranges from the smallest and the largest value seen: nothing is clipped, outliers cost resolution."""

from __future__ import annotations

from edgekit.quantize.histogram import Cost, Histogram, Range


def limits(seen: Histogram, cost: Cost) -> Range:
    """The range of one activation tensor."""
    return Range(seen.low, seen.high, "minmax")
