"""Ranges by their effect: each tensor takes the rule that, with only this tensor quantized, changes the logits least.

The error is measured on a few calibration images: the network runs in float, one tensor is put on each candidate's
int8 grid, and the squared error of the output decides. Rules that give the same range are tried once. Only one
tensor is quantized at a time, so joint errors of several tensors are not seen.
"""

from __future__ import annotations

from collections.abc import Callable

from edgekit.quantize.histogram import Cost, Histogram, Range
from edgekit.quantize.ranges import entropy, minmax, mse, percentile

RULES: tuple[Callable[[Histogram, Cost], Range], ...] = (
    minmax.limits,
    mse.limits,
    percentile.limits,
    entropy.limits,
)
"""Among equals, the first wins."""


def limits(seen: Histogram, cost: Cost) -> Range:
    """The range of one activation tensor."""
    candidates = {(choice.low, choice.high): choice for choice in (rule(seen, cost) for rule in reversed(RULES))}
    choices = list(reversed(candidates.values()))
    return choices[0] if len(choices) == 1 else min(choices, key=lambda choice: cost(choice.low, choice.high))
