"""Learning rate over a training run."""

from __future__ import annotations

import math


def factor(step: int, total: int, warmup: float) -> float:
    """Share of the peak rate at one step: linear warm-up, then a half cosine down to zero.

    Source: Loshchilov and Hutter 2017 (SGDR, without restarts); Goyal et al. 2017 (warm-up).

    Args:
        step: from 0 to `total` - 1.
        total: steps of the whole run.
        warmup: share of them that warms up, 0..1.

    Returns:
        More than 0, at most 1.
    """
    rising = round(warmup * total)
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / (total - rising)))
