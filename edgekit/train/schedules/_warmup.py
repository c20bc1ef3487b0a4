"""The linear rise that most schedules begin with: Goyal et al. 2017."""

from __future__ import annotations


def rising(step: int, total: int, warmup: float) -> tuple[float | None, int, int]:
    """The share of the peak while the rate rises.

    Returns:
        It, or None after the warm-up; then the steps since the warm-up, and how many follow it.
    """
    steps = round(warmup * total)
    return ((step + 1) / (steps + 1) if step < steps else None), step - steps, total - steps
