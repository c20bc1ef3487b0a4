"""Linear warm-up, then the peak rate, which falls by ``gamma`` after each of the ``milestones``."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.config.train_section import TrainSection
from edgekit.train.schedules._warmup import rising


def factor(section: TrainSection, step: int, total: int, losses: Sequence[float] = ()) -> float:
    """Share of the peak rate at one step; see `edgekit.train.port.Schedule`."""
    share, _, _ = rising(step, total, section.warmup)
    passed = sum(step >= round(milestone * total) for milestone in section.milestones)
    return float(section.gamma**passed) if share is None else share
