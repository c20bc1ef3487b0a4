"""Up from 1/25 of the peak rate over the warm-up, then down to nearly zero, both along a half cosine.

Smith and Topin 2019 (super-convergence), with the defaults of torch's ``OneCycleLR``; the momentum stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgekit.config.train_section import TrainSection

START, END = 1 / 25, 1 / 25 / 1e4
"""Shares of the peak rate at the first step and at the last."""


def factor(section: TrainSection, step: int, total: int, losses: Sequence[float] = ()) -> float:
    """Share of the peak rate at one step; see `edgekit.train.port.Schedule`."""
    top, last = section.warmup * total - 1, total - 1
    if step <= top:
        return _between(START, 1.0, step / top if top else 1.0)
    return _between(1.0, END, (step - top) / (last - top) if last > top else 1.0)


def _between(first: float, last: float, share: float) -> float:
    return last + (first - last) / 2 * (1 + math.cos(math.pi * share))
