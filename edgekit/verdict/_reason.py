"""A verdict in one sentence."""

from __future__ import annotations

from edgekit.measurements import Kind
from edgekit.scores import Difference
from edgekit.verdict._candidate import Candidate, Limits, quickest
from edgekit.verdict._criteria import P50, SIZE, Choice, ms, times

STAND_INS = {"benchmark_model": "litert", "executor_runner": "executorch"}
"""For an engine that does not return its outputs, the engine whose accuracy counts: same kernels, in Python."""


def reason(
    choice: Choice,
    baseline: Candidate | None,
    candidates: list[Candidate],
    kind: Kind,
    max_drop: float | None,
    limits: Limits,
) -> str:
    """One sentence on the choice, its rivals, and what could not be checked.

    Args:
        choice: what ships, and what it was chosen by.
        baseline: the fastest float file, shippable or not; None if none was timed.
        candidates: all that were timed.
        kind: of the timings.
        max_drop: as in `edgekit.verdict.rule.decide`.
        limits: bounds of the device.
    """
    best, tie = choice.best, choice.words()
    parts = [f"{best.name}: p50 {ms(best.timing.p50_ms)}"]
    if tie:
        parts.append(tie)
    if choice.objective is SIZE and not tie and len(candidates) > 1:
        parts.append("the smallest file that may ship here")
    if best.is_float:
        parts += _against_int8(choice, candidates)
    elif baseline is None:
        parts.append("no float file was timed here to compare with")
    elif baseline is not choice.rival:
        parts.append(_against_float(choice, baseline))
    if best.drop is not None:
        parts.append(_drop(best.drop, best.lost, max_drop))
    text = ", ".join(parts)
    refused = quickest(c for c in candidates if c.misses and c.timing.p50_ms < best.timing.p50_ms)
    if refused is not None and not (refused is baseline and not best.is_float):
        text += f"; {refused.name} is faster ({ms(refused.timing.p50_ms)}) but {refused.why_not}"
    if limits.rss_mb is not None and not best.timing.rss_bytes:
        text += f"; its peak memory was not measured, so the {limits.rss_mb:g} MB limit was not checked"
    if best.timing.engine in STAND_INS and best.drop is not None:
        engine = best.timing.engine
        text += f"; its accuracy is that of {STAND_INS[engine]}, as {engine} does not return outputs"
    if limits.p90_ms is not None and best.timing.p90_ms is None:
        text += f"; its p90 is unknown, so the {limits.p90_ms:g} ms limit was checked against p50 only"
    return text + _caveat(kind)


def _against_int8(choice: Choice, candidates: list[Candidate]) -> list[str]:
    """How a float file that ships compares with the fastest file that is not float; nothing if that tied with it."""
    best = choice.best
    rival = quickest(c for c in candidates if not c.is_float and not c.misses)
    if rival is None or rival is choice.rival:
        return []
    which = f"{rival.artifact.precision} file ({rival.artifact.id}, {rival.timing.engine}"
    if rival.timing.p50_ms >= best.timing.p50_ms:
        return [f"no slower than the fastest {which}: {ms(rival.timing.p50_ms)})"]
    if choice.objective is not P50:
        return [f"{_better(choice, rival)} than the fastest {which})"]
    return [f"{rival.name} ({ms(rival.timing.p50_ms)}) does not beat the fastest float file"]


def _against_float(choice: Choice, baseline: Candidate) -> str:
    """How a file that is not float, but ships, compares with the fastest float file."""
    which = f"the fastest float file ({baseline.artifact.id}, {baseline.timing.engine})"
    ratio = baseline.timing.p50_ms / choice.best.timing.p50_ms
    if ratio > 1:
        return f"{times(ratio, 'faster')} than {which}"
    slower = f"{times(1 / ratio, 'slower')} than {which}" if ratio < 1 else f"as fast as {which}"
    return (
        f"{slower}, which is refused because {baseline.why_not}"
        if baseline.misses
        else (f"{slower}, but {_better(choice, baseline)}")
    )


def _better(choice: Choice, rival: Candidate) -> str:
    mine, its = choice.objective.of(choice.best) or 0.0, choice.objective.of(rival) or 0.0
    better = "smaller" if choice.objective is SIZE else f"{times(its / mine, 'faster')} {choice.objective.name}"
    return f"{better} ({choice.objective.show(mine)} against {choice.objective.show(its)})"


def nearest(candidates: list[Candidate], kind: Kind) -> str:
    """One sentence where nothing can be shipped: the candidate that misses least, and by how much."""

    def distance(candidate: Candidate) -> tuple[float, float, float]:
        amounts = [miss.amount for miss in candidate.misses]
        return (sum(amount == float("inf") for amount in amounts), max(amounts), candidate.timing.p50_ms)

    least = min(candidates, key=distance)
    speed = f"p50 {ms(least.timing.p50_ms)}"
    return f"nothing can be shipped; closest is {least.name} ({speed}), but {least.why_not}{_caveat(kind)}"


def doubt(best: Candidate, rivals: list[Candidate]) -> str:
    """Whether something else is faster than what ships, worded to follow "to tell"."""
    rival = min(rivals, key=lambda candidate: candidate.timing.p50_ms)
    more = f" or one of {len(rivals) - 1} others" if len(rivals) > 2 else " or one other" if len(rivals) == 2 else ""
    name = best.name if rival.artifact.id == best.artifact.id else best.artifact.id
    return f"whether {rival.name} ({_spread(rival)}){more} is faster than {name} ({_spread(best)})"


def _spread(candidate: Candidate) -> str:
    timing = candidate.timing
    ends = timing.p50_ci and " to ".join(ms(end).removesuffix(" ms") for end in timing.p50_ci)
    return ms(timing.p50_ms) + (f", 95 % interval {ends}" if ends else "")


def _caveat(kind: Kind) -> str:
    return "" if kind == "measured" else f"; the times are {kind}, not measured"


def _drop(drop: float, lost: Difference | None, max_drop: float | None) -> str:
    if abs(drop) < 0.005:
        return "loses no top-1"
    text = f"{'loses' if drop > 0 else 'gains'} {points(abs(drop))} of top-1"
    chance = ", which may be chance" if lost is not None and not lost.side else ""
    return text + chance + within(lost, max_drop if drop > 0 else None)


def within(lost: Difference | None, max_drop: float | None) -> str:
    """`` (95 % interval -0.2 to 1.4, 1 allowed)``: of a loss, and how much may be lost, where they are known."""
    parts = [] if lost is None else [f"95 % interval {lost.low:.2g} to {lost.high:.2g}"]
    parts += [] if max_drop is None else [f"{max_drop:g} allowed"]
    return f" ({', '.join(parts)})" if parts else ""


def points(value: float) -> str:
    """``1 point``, ``0.3 points``."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return f"{text} point{'' if text == '1' else 's'}"


def over_by(share: float) -> str:
    """A share above a bound, in percent."""
    return f"{share:.0%}".replace("%", " %") if share >= 0.01 else "less than 1 %"
