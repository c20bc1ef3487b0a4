"""Figures of a list of samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def summary(samples: Sequence[float]) -> dict[str, float]:
    """Minimum, mean and percentiles, named as in `edgekit.types.Timing`.

    Percentiles interpolate linearly between the two nearest samples (NumPy's default; type 7 of Hyndman and Fan,
    "Sample Quantiles in Statistical Packages", 1996).

    Args:
        samples: at least one time, in milliseconds.
    """
    p50, p90, p99 = np.percentile(samples, [50, 90, 99])
    return {
        "min_ms": float(np.min(samples)),
        "mean_ms": float(np.mean(samples)),
        "p50_ms": float(p50),
        "p90_ms": float(p90),
        "p99_ms": float(p99),
    }
