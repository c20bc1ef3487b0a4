"""Linear warm-up, then the peak rate to the end."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.config.train_section import TrainSection
from edgekit.train.schedules._warmup import rising


def factor(section: TrainSection, step: int, total: int, losses: Sequence[float] = ()) -> float:
    """Share of the peak rate at one step; see `edgekit.train.port.Schedule`."""
    share, _, _ = rising(step, total, section.warmup)
    return 1.0 if share is None else share
