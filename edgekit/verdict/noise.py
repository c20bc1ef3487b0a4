"""Whether two times are far enough apart, or close enough together, to tell which file is the faster one.

Standard library only, plus numpy when intervals are compared.

The rule, for the p50 of a row, the lower p50 of another, their ratio (at least 1), and its 95 % interval:

- ``unclear``: the interval includes 1 and reaches beyond `WIDE`. The row may be the faster one, and it may be slower by
  more than anyone would accept for a smaller file: the times do not tell.
- ``level``: else, if the p50s are within `CLOSE` or the interval includes 1. Whatever the difference is, it is small.
- ``slower``: else.

What was not measured (estimates are level within their error bars) is never unclear: measuring again would not help.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from edgekit.measurements import NOISE, Timing
from edgekit.verdict import stats

Standing = Literal["slower", "level", "unclear"]
CLOSE = 0.05
"""Candidates whose p50 differs by no more than this share are judged by the other criteria. A user does not notice 5 %,
and the same file in a new process may differ by as much."""
WIDE = 1.2
"""What the slower of two files that count as equally fast may take at most, as a multiple of the other's time."""
WAITING, STOLEN = 0.1, 0.02
"""Shares of `Timing.cpu_pressure` and `Timing.cpu_steal` from which a machine is called busy."""


def standing(row: Timing, fastest: Timing) -> Standing:
    """How a row compares with one of no higher p50, from the same run on the same device."""
    if row is fastest:
        return "level"
    if row.kind != "measured":
        return "level" if equal(row, fastest) or row.p50_ms <= fastest.p50_ms * (1 + CLOSE) else "slower"
    return judge(row.p50_ms / fastest.p50_ms, _interval(row, fastest))


def judge(ratio: float, ci: tuple[float, float] | None) -> Standing:
    """The rule above on plain numbers.

    Args:
        ratio: the higher p50 over the lower one.
        ci: its 95 % interval; None if there are too few samples for one.
    """
    if is_unclear(ci):
        return "unclear"
    return "level" if ratio <= 1 + CLOSE or (ci is not None and ci[0] <= 1) else "slower"


def is_unclear(ci: tuple[float, float] | None) -> bool:
    """Whether the interval of a ratio of two times includes 1, and a ratio beyond `WIDE`."""
    return ci is not None and ci[0] <= 1 <= ci[1] and max(ci[1], 1 / ci[0]) > WIDE


def equal(a: Timing, b: Timing) -> bool:
    """Whether two p50 values, from one run on one device, are indistinguishable."""
    if len(a.round_sizes) > 1 and len(b.round_sizes) > 1:
        return not stats.different(a, b, interleaved=True)
    if not a.samples and not b.samples and a.p50_ci and b.p50_ci:
        return a.p50_ci[0] <= b.p50_ms <= a.p50_ci[1] or b.p50_ci[0] <= a.p50_ms <= b.p50_ci[1]
    return max(a.p50_ms, b.p50_ms) <= min(a.p50_ms, b.p50_ms) * (1 + NOISE)


def unclear(rows: Iterable[Timing]) -> list[Timing]:
    """Rows that cannot be told from the fastest one, and that one, first; empty if all can.

    Args:
        rows: timings of one device and kind.
    """
    ordered = sorted(rows, key=lambda row: row.p50_ms)
    found = [row for row in ordered[1:] if standing(row, ordered[0]) == "unclear"]
    return [ordered[0], *found] if found else []


def _interval(a: Timing, b: Timing) -> tuple[float, float] | None:
    """95 % interval of the ratio of two p50s. Without rounds to compare, that of two independent intervals."""
    if len(a.round_sizes) > 1 and len(b.round_sizes) > 1:
        return stats.ratio(a, b, interleaved=True).ci
    if a.p50_ci is None or b.p50_ci is None:
        return None
    far = math.hypot(*(math.log(t.p50_ci[1] / t.p50_ci[0]) / 2 for t in (a, b) if t.p50_ci))
    ratio = a.p50_ms / b.p50_ms
    return ratio / math.exp(far), ratio * math.exp(far)


def words(rows: Iterable[Timing], cores: int | None, doubt: str) -> str:
    """Why the times do not tell, in one clause: ``this machine was too busy to tell ...: load 3.1 on 2 cores``.

    Args:
        rows: those that were compared.
        cores: of their machine; None if it is unknown.
        doubt: what they do not tell, worded to follow "to tell".
    """
    rows = list(rows)
    load = max((row.load_average for row in rows), default=0.0)
    waiting = max((row.cpu_pressure or 0.0 for row in rows), default=0.0)
    stolen = max((row.cpu_steal or 0.0 for row in rows), default=0.0)
    busy = (cores is not None and load > cores) or waiting >= WAITING or stolen >= STOLEN
    said = f"load {load:.1f}" + ("" if cores is None else f" on {cores} core{'s' if cores > 1 else ''}")
    said += " while measuring"
    if waiting >= WAITING:
        said += f", a process waiting for a core {100 * waiting:.0f} % of the time"
    if stolen >= STOLEN:
        said += f", {100 * stolen:.0f} % of the CPU time taken by other virtual machines"
    if busy:
        return f"this machine was too busy to tell {doubt}: {said}"
    return f"times varied too much to tell {doubt}, although this machine was not busy: {said}"
