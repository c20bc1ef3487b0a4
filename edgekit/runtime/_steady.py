"""Whether warm-up has ended: do the latest times of a stream still drift?

The latest times are cut into a few batches, and the medians of the batches tested: for a trend by Mann-Kendall (Mann,
"Nonparametric Tests Against Trend", 1945, with the exact distribution of Kendall's S), for a change of level between
the halves by Mann-Whitney ("On a Test of Whether one of Two Random Variables is Stochastically Larger", 1947). How much
it drifts is Theil-Sen's slope (Sen, "Estimates of the Regression Coefficient Based on Kendall's Tau", 1968). Times are
steady unless a drift is both significant and large. A batch's median ignores single spikes, and all three go by rank or
median. Standard library only.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import median

BATCHES = 8
WINDOW = 5 * BATCHES
"""Times that are tested; the median of each batch of five withstands two spikes."""
SIGNIFICANCE = 0.05
"""Two-sided chance of as strong a trend in times that have none."""
SLOPE = 0.01
"""A drift over the window below this share of the median does not matter."""


def steady(times: Sequence[float], window: int = WINDOW) -> bool:
    """Whether the last `window` times show no drift that is both significant and more than `SLOPE`.

    Args:
        times: a stream of times, oldest first, in any unit.
        window: how many of the last ones count, at least `BATCHES`; batches of 5 withstand two spikes each.

    Returns:
        False also while there are fewer than `window` times.

    Raises:
        ValueError: a window smaller than `BATCHES`.
    """
    if window < BATCHES:
        raise ValueError(f"a window of {window} times, but {BATCHES} are needed")
    if len(times) < window:
        return False
    latest = times[-window:]
    middles = [median(latest[i * window // BATCHES : (i + 1) * window // BATCHES]) for i in range(BATCHES)]
    if abs(_slope(middles)) * (BATCHES - 1) <= SLOPE * median(middles):
        return True
    return _chance(middles) > SIGNIFICANCE and not _apart(middles)


def first_steady(times: Sequence[float], window: int = WINDOW) -> int | None:
    """How many times pass until `steady` first holds, checked after each batch; None if it never does."""
    step = max(window // BATCHES, 1)
    return next((n for n in range(window, len(times) + 1, step) if steady(times[:n], window)), None)


def _slope(values: Sequence[float]) -> float:
    """Theil-Sen: median slope over all pairs, per place."""
    return median((b - a) / (j - i) for (i, a), (j, b) in combinations(enumerate(values), 2))


def _apart(values: Sequence[float]) -> bool:
    """Whether the halves do not overlap: Mann-Whitney's U is 0, which for 4 against 4 has a chance of 2 in 70."""
    first, second = values[: len(values) // 2], values[len(values) // 2 :]
    return max(first) < min(second) or max(second) < min(first)


def _chance(values: Sequence[float]) -> float:
    """Two-sided p-value of Kendall's S: how likely as much order is among random permutations of n values."""
    n = len(values)
    score = abs(sum((b > a) - (b < a) for a, b in combinations(values, 2)))
    ways = [1]  # permutations of k values by their number of inversions
    for k in range(2, n + 1):
        longer = [0] * (len(ways) + k - 1)
        for count, many in enumerate(ways):
            for place in range(k):
                longer[count + place] += many
        ways = longer
    pairs = n * (n - 1) // 2
    return min(1.0, 2 * sum(ways[: (pairs - score) // 2 + 1]) / sum(ways))
