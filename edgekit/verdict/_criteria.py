"""What a file can be better at, and how a choice among files that are about equally fast is made and explained.

Standard library only, plus numpy when intervals are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgekit.measurements import Objective
from edgekit.verdict._candidate import Candidate
from edgekit.verdict.noise import CLOSE, equal, standing


@dataclass(frozen=True)
class Criterion:
    """Something of which less is better."""

    name: str
    """As the report names it."""
    of: Callable[[Candidate], float | None]
    """The amount; None if it was not measured."""
    close: float
    """Amounts that differ by no more than this share are equal."""
    better: str
    """What the smaller amount means, worded to follow "and"; ``{faster}`` is how much faster that is."""
    show: Callable[[float], str]


def ms(value: float) -> str:
    """Milliseconds with three significant digits."""
    return f"{value:#.3g}".rstrip(".") + " ms" if value < 1000 else f"{value:,.0f} ms"


def megabytes(value: float) -> str:
    """Bytes as MB of 1e6 bytes."""
    return f"{value / 1e6:.3g} MB"


def times(ratio: float, word: str) -> str:
    """``2.1x faster``, or ``4.3 % faster`` where the ratio is small."""
    return f"{ratio:.1f}x {word}" if ratio >= 1.1 else f"{100 * (ratio - 1):.1f} % {word}"


def _total(candidate: Candidate) -> float | None:
    steps = candidate.timing.steps
    return steps.total_ms if steps else None


P50 = Criterion("p50", lambda c: c.timing.p50_ms, CLOSE, "{faster}", ms)
END_TO_END = Criterion("end to end", _total, CLOSE, "{faster} end to end", ms)
SIZE = Criterion("size", lambda c: c.artifact.bytes, 0.0, "the smaller file", megabytes)
ORDER = (
    END_TO_END,
    Criterion("memory", lambda c: c.timing.rss_bytes or None, CLOSE, "takes less memory", megabytes),
    Criterion("load time", lambda c: c.timing.load_ms or None, CLOSE, "loads sooner", ms),
    SIZE,
    Criterion("threads", lambda c: c.timing.threads, 0.0, "takes fewer threads", "{:.0f}".format),
)
"""What decides among candidates of equal p50, most important first."""
ANYWHERE = (P50, SIZE, ORDER[-1])
"""Criteria that also count where times are emulated or estimated."""
OBJECTIVES: dict[Objective, Criterion] = {"p50": P50, "end_to_end": END_TO_END, "size": SIZE}


@dataclass(frozen=True)
class Choice:
    """The candidate to ship."""

    best: Candidate
    objective: Criterion
    by: Criterion
    """What decided: the objective, or what broke a tie."""
    rival: Candidate | None = None
    """The closest of those that tie with it by the objective and lost by `by`; None if there was no tie."""

    def words(self) -> str:
        """How the tie was broken, worded to follow a comma; empty if there was none."""
        if self.rival is None:
            return ""
        mine, its = self.by.of(self.best) or 0.0, self.by.of(self.rival) or 0.0
        better = self.by.better.format(faster=times(its / mine, "faster"))
        return f"{self._tie(self.rival)}, and {better} ({self.by.show(mine)} against {self.by.show(its)})"

    def _tie(self, rival: Candidate) -> str:
        if self.objective is not P50:
            return f"level with {rival.name} by {self.objective.name}"
        close = "measurement error" if equal(self.best.timing, rival.timing) else f"{100 * CLOSE:g} %"
        return f"as fast as {rival.name} ({ms(rival.timing.p50_ms)}) within {close}"


def choose(candidates: Sequence[Candidate], objective: Criterion) -> Choice:
    """The best by the objective; where several are about equal by that, `ORDER` decides.

    A criterion that was not measured for all who are left is skipped. Memory and times other than p50 count only where
    they were measured on the device itself.

    Args:
        candidates: at least one, all with an amount of the objective.
        objective: what matters most.
    """
    measured = all(candidate.timing.kind == "measured" for candidate in candidates)
    left = _least(candidates, objective)
    lost: list[tuple[Candidate, Criterion]] = []
    for criterion in (P50, *ORDER):
        counts = criterion is not objective and (measured or criterion in ANYWHERE)
        if counts and all(criterion.of(candidate) is not None for candidate in left):
            kept = _least(left, criterion)
            lost += [(candidate, criterion) for candidate in left if candidate not in kept]
            left = kept
    best = min(left, key=lambda candidate: candidate.timing.p50_ms)
    close = (objective.of(best) or 0.0) * (1 + objective.close)
    lost = [(candidate, by) for candidate, by in lost if (objective.of(candidate) or 0.0) <= close]
    if not lost:  # or the others only tie as their intervals are wide
        return Choice(best, objective, objective)
    rival, by = min(lost, key=lambda pair: (objective.of(pair[0]) or 0.0, pair[0].timing.p50_ms))
    return Choice(best, objective, by, rival)


def _least(candidates: Sequence[Candidate], criterion: Criterion) -> list[Candidate]:
    """Those that are about as good as the best by a criterion that is known for all of them.

    By p50, only those of which that can be told: where times are too uncertain, the lowest p50 goes first.
    """
    if criterion is P50:
        fastest = min(candidates, key=lambda candidate: candidate.timing.p50_ms).timing
        return [candidate for candidate in candidates if standing(candidate.timing, fastest) == "level"]
    amounts = [(candidate, criterion.of(candidate) or 0.0) for candidate in candidates]
    low = min(amount for _, amount in amounts)
    return [candidate for candidate, amount in amounts if amount <= low * (1 + criterion.close)]
