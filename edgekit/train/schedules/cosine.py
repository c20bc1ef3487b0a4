"""Linear warm-up, then a half cosine down to zero.

Loshchilov and Hutter 2017 (SGDR, without restarts).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgekit.config.train_section import TrainSection
from edgekit.train.schedules._warmup import rising


def factor(section: TrainSection, step: int, total: int, losses: Sequence[float] = ()) -> float:
    """Share of the peak rate at one step; see `edgekit.train.port.Schedule`."""
    share, since, left = rising(step, total, section.warmup)
    return share if share is not None else 0.5 * (1 + math.cos(math.pi * since / left))
