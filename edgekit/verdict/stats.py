"""Statistics of a list of times, their confidence intervals, and whether two lists differ.

Times from one process are not independent: neighbouring samples are correlated, and each round of a measurement has a
level of its own. So confidence intervals come from a two-stage bootstrap: rounds are drawn with replacement, and within
each drawn round, blocks of neighbouring samples (Davison and Hinkley, "Bootstrap Methods and their Application", 1997,
section 3.8; blocks: Carlstein, "The Use of Subseries Values for Estimating the Variance", 1986; levels of repetition:
Kalibera and Jones, "Rigorous Benchmarking in Reasonable Time", 2013). Rounds are few, and percentiles over so few
clusters give intervals that are too narrow. So the interval is Student's t with the bootstrap's standard error and one
degree of freedom less than there are rounds (Hesterberg, "What Teachers Should Know About the Bootstrap", 2015,
sections 4.3 and 5.2), taken of the logarithm, as times are positive and compared by ratio. Samples whose rounds are
unknown are cut into `BATCHES` rounds.

Neighbouring rounds are correlated too: whatever slows a machine down lasts for seconds. So the standard error is
widened as for an AR(1) process, whose round k depends on round k - 1 (Priestley, "Spectral Analysis and Time Series",
1981, section 5.3.2). A few rounds are not enough to estimate that correlation, so at least `RESEMBLANCE` is assumed,
except for interleaved rounds, where disturbances of the machine cancel out.

No sample is removed. These intervals do not cover what changes with a new process or on another day.

Needs numpy, which is imported when a function is called.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgekit.measurements import Timing

LEVEL = 0.95
DRAWS = 400
SEED = 0
BATCHES = 10
BLOCKS = 16
"""Maximum number of blocks per round; it keeps blocks of long rounds long."""
GRID = 256
"""Points at which the distributions of the resamples are stored; percentiles in between are interpolated."""
RESEMBLANCE, MOST = 0.3, 0.8
"""Bounds on the assumed correlation of neighbouring rounds."""
MAD = 1.4826
"""Standard deviations in one median absolute deviation of a normal distribution."""


def summary(samples: Sequence[float]) -> dict[str, float]:
    """Minimum, mean and percentiles, named as in `edgekit.measurements.Timing`.

    Percentiles interpolate linearly between the two nearest samples (NumPy's default; type 7 of Hyndman and Fan,
    "Sample Quantiles in Statistical Packages", 1996).

    Args:
        samples: at least one time, in milliseconds.
    """
    import numpy as np

    p50, p90, p99 = np.percentile(samples, [50, 90, 99])
    return {
        "min_ms": float(np.min(samples)),
        "mean_ms": float(np.mean(samples)),
        "p50_ms": float(p50),
        "p90_ms": float(p90),
        "p99_ms": float(p99),
    }


def intervals(samples: Sequence[float], round_sizes: Sequence[int] = ()) -> dict[str, Any]:
    """Confidence intervals and the share of outliers, named as in `edgekit.measurements.Timing`.

    Args:
        samples: times in milliseconds, in the order measured.
        round_sizes: number of samples in each round; empty if unknown.

    Raises:
        ValueError: the rounds do not add up to the samples.
    """
    draws = _draws(samples, round_sizes, SEED)
    fields: dict[str, Any] = {"round_sizes": tuple(round_sizes), "outliers": outliers(samples)}
    points = summary(samples)
    for name, q in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        ends = None if draws is None else _ends(points[f"{name}_ms"], draws.percentile(q), [draws.levels], RESEMBLANCE)
        fields[f"{name}_ci"] = ends
    return fields


def outliers(samples: Sequence[float]) -> float:
    """Share of samples further than 3 scaled median absolute deviations from the median.

    The two-sided rule of Leys et al., "Detecting outliers: Do not use standard deviation around the mean", 2013.
    """
    import numpy as np

    values = np.asarray(samples, np.float64)
    distance = np.abs(values - np.median(values))
    return float(np.mean(distance > 3 * MAD * np.median(distance)))


@dataclass(frozen=True)
class Ratio:
    """Ratio of the p50 of one list of times to that of another."""

    value: float
    ci: tuple[float, float] | None
    """95 % confidence interval; None if there are too few samples for one."""

    @property
    def differs(self) -> bool:
        """Whether the interval excludes 1; False if there is no interval."""
        return self.ci is not None and not self.ci[0] <= 1 <= self.ci[1]


def ratio(a: Timing, b: Timing, *, interleaved: bool = False) -> Ratio:
    """Ratio of the p50 of `a` to that of `b`, with its confidence interval.

    Args:
        a: a timing with its samples.
        b: the timing to compare it with.
        interleaved: their rounds alternated in one run: round k of both is drawn together, so that disturbances of
            the machine in that round cancel out. Where one had more rounds, those that both had are drawn.
    """
    value = a.p50_ms / b.p50_ms
    both = min(len(a.round_sizes), len(b.round_sizes))
    together = interleaved and both > 1
    # equal seeds draw equal rounds
    of_a = _draws(*_first(a, both if together else None), SEED)
    of_b = _draws(*_first(b, both if together else None), SEED if together else SEED + 1)
    if of_a is None or of_b is None:
        return Ratio(value, None)
    ratios = of_a.percentile(0.5) / of_b.percentile(0.5)
    if together:
        return Ratio(value, _ends(value, ratios, [of_a.levels - of_b.levels], 0.0))
    return Ratio(value, _ends(value, ratios, [of_a.levels, of_b.levels], RESEMBLANCE))


def different(a: Timing, b: Timing, *, interleaved: bool = False) -> bool:
    """Whether the p50 of two timings differ: the interval of their ratio excludes 1. See `ratio`."""
    return ratio(a, b, interleaved=interleaved).differs


@dataclass(frozen=True)
class _Draws:
    """Distribution functions of resamples on a grid."""

    grid: npt.NDArray[np.float64]
    """(points,), ascending, in milliseconds."""
    below: npt.NDArray[np.float64]
    """(DRAWS, points): share of the resample that does not exceed the grid's value."""
    levels: npt.NDArray[np.float64]
    """(rounds,): logarithm of each round's median."""

    def percentile(self, q: float) -> npt.NDArray[np.float64]:
        """The percentile of each resample, (DRAWS,), in milliseconds."""
        import numpy as np

        rows = np.arange(len(self.below))
        after = np.minimum((self.below < q).sum(axis=1), len(self.grid) - 1)
        before = np.maximum(after - 1, 0)
        low, high = self.below[rows, before], self.below[rows, after]
        share = np.where(high > low, (q - low) / np.where(high > low, high - low, 1), 1.0)
        values: npt.NDArray[np.float64] = self.grid[before] + np.clip(share, 0, 1) * (
            self.grid[after] - self.grid[before]
        )
        return values


def _first(row: Timing, rounds: int | None) -> tuple[Sequence[float], Sequence[int]]:
    """Samples and sizes of a row's first rounds; None is all of them."""
    sizes = row.round_sizes[:rounds]
    return (row.samples if rounds is None else row.samples[: sum(sizes)]), sizes


def _draws(samples: Sequence[float], round_sizes: Sequence[int], seed: int) -> _Draws | None:
    """Resamples, as the module's docstring describes; None for fewer than two rounds."""
    import numpy as np

    values = np.asarray(samples, np.float64)
    sizes = [size for size in round_sizes if size]
    if round_sizes and sum(sizes) != len(values):
        raise ValueError(f"the rounds have {sum(sizes)} samples in total, but there are {len(values)} samples")
    if len(sizes) < 2:
        sizes = [len(part) for part in np.array_split(values, min(BATCHES, max(len(values), 1)))]
    if len(sizes) < 2:
        return None
    grid = np.unique(np.quantile(values, np.linspace(0, 1, GRID), method="inverted_cdf"))
    rounds = np.split(values, np.cumsum(sizes)[:-1])
    generator = np.random.default_rng(seed)
    chosen = generator.multinomial(len(rounds), [1 / len(rounds)] * len(rounds), DRAWS)
    counts = np.zeros((DRAWS, len(grid)))
    for index, times in enumerate(rounds):
        length = max(math.ceil(len(times) ** (1 / 3)), math.ceil(len(times) / BLOCKS))
        blocks = [times[start : start + length] for start in range(0, len(times), length)]
        held = np.stack([np.bincount(np.searchsorted(grid, block), minlength=len(grid)) for block in blocks])
        drawn = generator.multinomial(chosen[:, index] * len(blocks), [1 / len(blocks)] * len(blocks))
        counts += drawn.astype(np.float64) @ held
    below = counts.cumsum(axis=1)
    return _Draws(grid, below / below[:, -1:], np.log([np.median(times) for times in rounds]))


def _ends(
    value: float, resampled: npt.NDArray[np.float64], series: Sequence[npt.NDArray[np.float64]], least: float
) -> tuple[float, float]:
    """The t interval of a statistic, from the logarithms of its resampled values.

    Args:
        value: the statistic.
        resampled: its value in each resample, (DRAWS,).
        series: levels of the rounds, in order, for each list of times that is drawn independently.
        least: lower bound on the assumed correlation of neighbouring rounds.
    """
    import numpy as np

    rounds = min(map(len, series))
    alike = sum(_correlation(levels) for levels in series) / len(series)
    alike = min(max(alike, least), MOST)
    error = math.sqrt(rounds / (rounds - 1) * (1 + alike) / (1 - alike)) * float(np.log(resampled).std())
    factor = math.exp(t_quantile((1 + LEVEL) / 2, rounds - 1) * error)
    return value / factor, value * factor


def _correlation(levels: npt.NDArray[np.float64]) -> float:
    """Correlation of neighbouring rounds, corrected for small-sample bias (Marriott and Pope, Biometrika 41, 1954)."""
    away = levels - levels.mean()
    spread = float((away**2).sum())
    if spread <= 0 or len(levels) < 3:
        return 0.0
    raw = float((away[:-1] * away[1:]).sum()) / spread
    return raw + (1 + 3 * raw) / len(levels)


def t_quantile(p: float, degrees: int) -> float:
    """Quantile of Student's t distribution: exact for 1 and 2 degrees of freedom, else within 1 % (for p up to 0.99).

    Abramowitz and Stegun, "Handbook of Mathematical Functions", 1964, 26.7.5.
    """
    if degrees == 1:
        return math.tan(math.pi * (p - 0.5))
    if degrees == 2:
        return (2 * p - 1) * math.sqrt(2 / (4 * p * (1 - p)))
    z = NormalDist().inv_cdf(p)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return math.fsum(term / degrees**power for power, term in enumerate(terms))
