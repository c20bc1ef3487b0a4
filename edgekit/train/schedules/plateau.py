"""Linear warm-up, then the peak rate, which falls by ``gamma`` whenever the loss has stood still for some epochs.

As torch's ``ReduceLROnPlateau`` does. It is computed from the history, so that a resumed run needs no state of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgekit.config.train_section import TrainSection
from edgekit.train.schedules._warmup import rising

BETTER = 1e-4
"""Share of the best loss by which another one has to be below it."""


def factor(section: TrainSection, step: int, total: int, losses: Sequence[float] = ()) -> float:
    """Share of the peak rate at one step; see `edgekit.train.port.Schedule`."""
    share, _, _ = rising(step, total, section.warmup)
    return float(section.gamma ** _falls(losses, section.plateau)) if share is None else share


def _falls(losses: Sequence[float], patience: int) -> int:
    best, still, falls = math.inf, 0, 0
    for loss in losses:
        if loss < best * (1 - BETTER):
            best, still = loss, 0
        else:
            still += 1
        if still > patience:
            still, falls = 0, falls + 1
    return falls
