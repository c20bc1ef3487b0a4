"""Which file to ship on a device, and why, in one sentence.

Standard library only, plus numpy when intervals are compared.

The rule, in order:

1. Only the best kind of timing that the device has counts: measured, else emulated, else estimated. Kinds are never
   mixed. References (`Timing.reference`: PyTorch) are ignored.
2. A candidate (artifact x engine x threads) is shippable when its engine passed verification on the test split, its
   top-1 there is at least that of torch fp32 minus `max_drop` points, and it meets the device's limits (p90, size,
   peak memory). Files of a bundle must also reproduce its golden vectors there (`refused`). If no file has accuracy
   scores, accuracy is ignored, and the reason says so.
3. Never worse than float: an integer precision is shippable only if its p50 is below that of the fastest shippable
   float file, fp32 or fp16.
4. The lowest p50 wins. Candidates whose p50 does not differ significantly from it tie with it
   (`edgekit.verdict.stats.different`; for estimates: within the error bar; within 2 % if neither is known). Among
   those, the smaller file wins, then fewer threads.

Speed is judged by p50, which is the most repeatable; limits by p90, which is what a user notices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from edgekit.measurements import NOISE, Kind, Timing, Verdict
from edgekit.types import TORCH_FP32, Accuracy, Artifact
from edgekit.verdict import stats

KINDS: tuple[Kind, ...] = ("measured", "emulated", "estimated")
"""Best first."""
_LIMITED = {"estimated": "estimated time"}
"""What the p90 limit is compared with, for kinds of timing that have no p90."""
_STAND_INS = {"benchmark_model": "litert"}
"""For an engine that does not return its outputs, the engine whose accuracy counts: same kernels, in Python."""
FLOAT = ("fp32", "fp16")
"""Precisions that the others must beat."""


class Limits(Protocol):
    """What `edgekit.device.file.LimitsSection` offers; None is no limit."""

    @property
    def p90_ms(self) -> float | None:
        """Milliseconds."""

    @property
    def size_mb(self) -> float | None:
        """File size in 1e6 bytes."""

    @property
    def rss_mb(self) -> float | None:
        """Peak resident set in 1e6 bytes."""


@dataclass(frozen=True)
class _Miss:
    text: str
    amount: float
    """How far off, relative to the bound; infinite if it is not a matter of degree."""


@dataclass(frozen=True)
class _Candidate:
    artifact: Artifact
    timing: Timing
    drop: float | None
    """Points of top-1 lost against torch fp32; None when either was not scored."""
    misses: tuple[_Miss, ...] = field(default=())

    @property
    def name(self) -> str:
        threads = self.timing.threads
        return f"{self.artifact.id} on {self.timing.engine}, {threads} thread{'s' if threads > 1 else ''}"

    @property
    def is_float(self) -> bool:
        return self.artifact.precision in FLOAT

    @property
    def why_not(self) -> str:
        return " and ".join(miss.text for miss in self.misses)


def decide(
    device_name: str,
    artifacts: Sequence[Artifact],
    accuracy: Sequence[Accuracy] | None,
    timings: Sequence[Timing],
    limits: Limits,
    max_drop: float | None,
    refused: Mapping[tuple[str, str], str] = MappingProxyType({}),
) -> Verdict:
    """Choose what to ship on one device; the module's docstring states the rule.

    Args:
        device_name: `Timing.device` of the timings that count; others are ignored.
        artifacts: the exported files.
        accuracy: scores; rows of this device are preferred, else those of another device with the same engine. None:
            no file has been scored, so the limits alone decide (and the reason says so).
        timings: latencies, any device; only batch 1 is compared.
        limits: bounds of the device.
        max_drop: points of top-1 (0..100) that a file may lose against torch fp32; None is no bound.
        refused: other reasons not to ship an artifact with an engine there, worded to follow "but".

    Returns:
        The choice with its reason; if nothing is shippable, `artifact` is None and the reason says by how much the
        nearest candidate misses.
    """
    kind = best_kind(device_name, timings)
    if kind is None:
        return _nothing(device_name, f"nothing was timed on {device_name}, so there is nothing to choose from")
    by_id = {artifact.id: artifact for artifact in artifacts}
    scores = None if accuracy is None else _scores(device_name, accuracy)
    reference = next((r.top1 for r in accuracy or () if r.artifact == TORCH_FP32 and r.split == "test"), None)
    candidates = [
        _judge(by_id[timing.artifact], timing, scores, reference, limits, max_drop, refused)
        for timing in timings
        if timing.device == device_name and timing.kind == kind and timing.batch == 1 and not timing.reference
    ]
    shippable = [candidate for candidate in candidates if not candidate.misses]
    unscored = "; these files have no accuracy scores, so accuracy was ignored" if accuracy is None else ""
    if not shippable:
        return _nothing(device_name, _nearest(candidates, kind) + unscored, kind)
    best = _fastest(_never_worse(shippable))
    baseline = _quickest(c for c in shippable if c.is_float) or _quickest(c for c in candidates if c.is_float)
    compared = baseline if not best.is_float else None
    return Verdict(
        device=device_name,
        artifact=best.artifact.id,
        engine=best.timing.engine,
        threads=best.timing.threads,
        reason=_reason(best, baseline, candidates, kind, max_drop, limits) + unscored,
        kind=kind,
        baseline=compared.name if compared else None,
        speedup=compared.timing.p50_ms / best.timing.p50_ms if compared else None,
        size_ratio=compared.artifact.bytes / best.artifact.bytes if compared else None,
        top1_drop=best.drop,
    )


def contenders(device_name: str, artifacts: Sequence[Artifact], timings: Sequence[Timing]) -> tuple[Timing, ...]:
    """Judged by speed alone: the file that would ship on a device, and its fastest rival (float against quantized).

    Args:
        device_name: as in `decide`.
        artifacts: the exported files.
        timings: any device.

    Returns:
        Two timings, one of a float file and one of a quantized file; fewer if one of them does not exist.
    """
    kind, by_id = best_kind(device_name, timings), {artifact.id: artifact for artifact in artifacts}
    rows = [t for t in timings if (t.device, t.kind, t.batch) == (device_name, kind, 1) and not t.reference]
    candidates = [_Candidate(by_id[timing.artifact], timing, None) for timing in rows]
    if not candidates:
        return ()
    best = _fastest(_never_worse(candidates))
    rival = _quickest(candidate for candidate in candidates if candidate.is_float != best.is_float)
    return (best.timing, *([rival.timing] if rival else []))


def best_kind(device_name: str, timings: Iterable[Timing]) -> Kind | None:
    """The most trustworthy kind of timing (batch 1) that a device has for any file; None if it has none."""
    kinds = {t.kind for t in timings if t.device == device_name and t.batch == 1 and not t.reference}
    return next((kind for kind in KINDS if kind in kinds), None)


def _scores(device: str, accuracy: Iterable[Accuracy]) -> dict[tuple[str, str], Accuracy]:
    """Test score of each artifact x engine, preferably from the device itself."""
    scores: dict[tuple[str, str], Accuracy] = {}
    for row in accuracy:
        key = (row.artifact, row.engine)
        if row.split == "test" and (key not in scores or row.device == device):
            scores[key] = row
    return scores


def _judge(
    artifact: Artifact,
    timing: Timing,
    scores: Mapping[tuple[str, str], Accuracy] | None,
    reference: float | None,
    limits: Limits,
    max_drop: float | None,
    refused: Mapping[tuple[str, str], str],
) -> _Candidate:
    key = (timing.artifact, timing.engine)
    stand_in = (timing.artifact, _STAND_INS.get(timing.engine, timing.engine))
    score = scores.get(key, scores.get(stand_in)) if scores is not None else None
    misses = [_Miss(refused[key], float("inf"))] if key in refused else []
    drop = None if score is None or reference is None else 100 * (reference - score.top1)
    if scores is None:
        pass
    elif score is None:
        misses.append(_Miss("it was not verified on the test split", float("inf")))
    elif not score.passed:
        problem = f" ({score.problem})" if score.problem else ""
        misses.append(_Miss(f"it failed verification{problem}", float("inf")))
    if score is not None and max_drop is not None:
        if drop is None:
            misses.append(_Miss(f"{TORCH_FP32} was not scored, so its drop is unknown", float("inf")))
        elif drop > max_drop + 1e-6:  # 90.6 - 89.6 is 1.0000000000000009
            misses.append(
                _Miss(f"it loses {_points(drop)} of top-1 ({max_drop:g} allowed)", (drop - max_drop) / max(max_drop, 1))
            )
    for what, value, limit, unit in (
        (_LIMITED.get(timing.kind, "p90"), timing.p90_ms, limits.p90_ms, "ms"),
        ("p50 alone", None if timing.p90_ms is not None else timing.p50_ms, limits.p90_ms, "ms"),
        ("size", artifact.bytes / 1e6, limits.size_mb, "MB"),
        ("peak memory", timing.rss_bytes / 1e6, limits.rss_mb, "MB"),
    ):
        if limit is not None and value is not None and value > limit:
            over = value / limit - 1
            misses.append(
                _Miss(f"its {what} of {value:.3g} {unit} is {_over(over)} over the {limit:g} {unit} allowed", over)
            )
    return _Candidate(artifact, timing, drop, tuple(misses))


def _never_worse(shippable: list[_Candidate]) -> list[_Candidate]:
    float_ = _quickest(candidate for candidate in shippable if candidate.is_float)
    if float_ is None:
        return shippable
    return [c for c in shippable if c.is_float or c.timing.p50_ms < float_.timing.p50_ms]


def _quickest(candidates: Iterable[_Candidate]) -> _Candidate | None:
    return min(candidates, key=lambda c: c.timing.p50_ms, default=None)


def _fastest(candidates: list[_Candidate]) -> _Candidate:
    first = min(candidates, key=lambda c: c.timing.p50_ms)
    ties = [candidate for candidate in candidates if candidate is first or equal(candidate.timing, first.timing)]
    return min(ties, key=lambda c: (c.artifact.bytes, c.timing.threads, c.timing.p50_ms))


def equal(a: Timing, b: Timing) -> bool:
    """Whether two p50 values, from one run on one device, are indistinguishable."""
    if len(a.round_sizes) > 1 and len(b.round_sizes) > 1:
        return not stats.different(a, b, interleaved=True)
    if not a.samples and not b.samples and a.p50_ci and b.p50_ci:
        return a.p50_ci[0] <= b.p50_ms <= a.p50_ci[1] or b.p50_ci[0] <= a.p50_ms <= b.p50_ci[1]
    return max(a.p50_ms, b.p50_ms) <= min(a.p50_ms, b.p50_ms) * (1 + NOISE)


def _reason(
    best: _Candidate,
    baseline: _Candidate | None,
    candidates: list[_Candidate],
    kind: Kind,
    max_drop: float | None,
    limits: Limits,
) -> str:
    parts = [f"{best.name}: p50 {_ms(best)}"]
    if best.is_float:
        rival = _quickest(c for c in candidates if not c.is_float and not c.misses)
        if rival is not None and rival.timing.p50_ms >= best.timing.p50_ms:
            parts.append(
                f"no slower than the fastest {rival.artifact.precision} file "
                f"({rival.artifact.id}, {rival.timing.engine}: {_ms(rival)})"
            )
        elif rival is not None and rival.artifact.bytes >= best.artifact.bytes:
            parts.append(f"as fast as {rival.artifact.id} within measurement error, and the smaller file")
        elif rival is not None:  # the fastest float file beats it; this one ties with that file and is smaller
            first = min((c for c in candidates if c.is_float and not c.misses), key=lambda c: c.timing.p50_ms)
            parts.append(
                f"as fast as {first.name} ({_ms(first)}) within measurement error, which {rival.name} ({_ms(rival)}) "
                "does not beat"
            )
    elif baseline is None:
        parts.append("no float file was timed here to compare with")
    else:
        where = f"({baseline.artifact.id}, {baseline.timing.engine})"
        ratio = baseline.timing.p50_ms / best.timing.p50_ms
        if ratio > 1:
            parts.append(f"{_times(ratio, 'faster')} than the fastest float file {where}")
        else:
            slower = f"{_times(1 / ratio, 'slower')} than" if ratio < 1 else "as fast as"
            parts.append(f"{slower} the fastest float file {where}, which is refused because {baseline.why_not}")
    if best.drop is not None:
        parts.append(_drop(best.drop, max_drop))
    text = ", ".join(parts)
    refused = _quickest(c for c in candidates if c.misses and c.timing.p50_ms < best.timing.p50_ms)
    if refused is not None and not (refused is baseline and not best.is_float):
        text += f"; {refused.name} is faster ({_ms(refused)}) but {refused.why_not}"
    if limits.rss_mb is not None and not best.timing.rss_bytes:
        text += f"; its peak memory was not measured, so the {limits.rss_mb:g} MB limit was not checked"
    if best.timing.engine in _STAND_INS and best.drop is not None:
        engine = best.timing.engine
        text += f"; its accuracy is that of {_STAND_INS[engine]}, as {engine} does not return outputs"
    if limits.p90_ms is not None and best.timing.p90_ms is None:
        text += f"; its p90 is unknown, so the {limits.p90_ms:g} ms limit was checked against p50 only"
    return text + _caveat(kind)


def _nearest(candidates: list[_Candidate], kind: Kind) -> str:
    def distance(candidate: _Candidate) -> tuple[float, float, float]:
        amounts = [miss.amount for miss in candidate.misses]
        return (sum(amount == float("inf") for amount in amounts), max(amounts), candidate.timing.p50_ms)

    nearest = min(candidates, key=distance)
    return (
        f"nothing can be shipped; closest is {nearest.name} (p50 {_ms(nearest)}), but {nearest.why_not}{_caveat(kind)}"
    )


def _nothing(device: str, reason: str, kind: Kind | None = None) -> Verdict:
    return Verdict(device=device, artifact=None, engine=None, threads=None, reason=reason, kind=kind)


def _caveat(kind: Kind) -> str:
    return "" if kind == "measured" else f"; the times are {kind}, not measured"


def _drop(drop: float, max_drop: float | None) -> str:
    if abs(drop) < 0.005:
        return "loses no top-1"
    if drop < 0:
        return f"gains {_points(-drop)} of top-1"
    return f"loses {_points(drop)} of top-1" + (f" ({max_drop:g} allowed)" if max_drop is not None else "")


def _points(value: float) -> str:
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return f"{text} point{'' if text == '1' else 's'}"


def _times(ratio: float, word: str) -> str:
    return f"{ratio:.1f}x {word}" if ratio >= 1.1 else f"{100 * (ratio - 1):.1f} % {word}"


def _over(share: float) -> str:
    return f"{share:.0%}".replace("%", " %") if share >= 0.01 else "less than 1 %"


def _ms(candidate: _Candidate) -> str:
    value = candidate.timing.p50_ms
    return f"{value:#.3g}".rstrip(".") + " ms" if value < 1000 else f"{value:,.0f} ms"
