"""Linear warm-up, then a half cosine down to zero.

Loshchilov and Hutter 2017 (SGDR, without restarts).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgekit.config.train_section import TrainSection
from edgekit.train.schedules._warmup import rising


def factor(section: TrainSection, step: int, total: int, losses: Sequence[float] = ()) -> float:
    """Share of the peak rate at one step.

    Args:
        section: how long it rises, and what else a schedule takes from the recipe.
        step: from 0 to `total` - 1.
        total: steps of the whole run.
        losses: of the epochs so far: validation losses where there are any, else training losses.

    Returns:
        More than 0, at most 1.
    """
    share, since, left = rising(step, total, section.warmup)
    return share if share is not None else 0.5 * (1 + math.cos(math.pi * since / left))
