"""Which file to ship on a device, and why, in one sentence.

Standard library only, plus numpy when intervals are compared.

The rule, in order:

1. Only the best kind of timing that the device has counts: measured, else emulated, else estimated. Kinds are never
   mixed. References (`Timing.reference`: PyTorch) are ignored.
2. A candidate (artifact x engine x threads) is shippable when its engine passed verification on the test split, its
   top-1 there is at least that of torch fp32 minus `max_drop` points, and it meets the device's limits (p90, size,
   peak memory). Files of a bundle must also reproduce its golden vectors there (`refused`). If no file has accuracy
   scores, accuracy is ignored, and the reason says so.
3. Never worse than float: an integer precision is shippable only if it is better by the objective (lower p50, unless
   the device or the recipe says otherwise) than the best shippable float file, fp32 or fp16.
4. The lowest p50 wins. Candidates within 5 % of it, or whose p50 does not differ significantly from it
   (`edgekit.verdict.stats.different`; for estimates: within the error bar), tie with it, if they are level
   (`edgekit.verdict.noise`). Among those, time end to end decides, then peak memory, load time, the size of the file
   and the number of threads. A user does not notice 5 % of an inference, but may notice the rest.
5. Where intervals are so wide that a candidate may be faster or a lot slower, nothing ties: the lowest p50 wins, and
   the verdict is marked as undecided and names the load of the machine.
6. With the objective ``end_to_end`` or ``size``, that comes first, and p50 breaks ties.

Speed is judged by p50, which is the most repeatable; limits by p90, which is what a user notices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from edgekit.measurements import Kind, Machine, Timing, Verdict
from edgekit.scores import Accuracy
from edgekit.types import TORCH_FP32, Artifact
from edgekit.verdict import noise
from edgekit.verdict._candidate import FLOAT as FLOAT
from edgekit.verdict._candidate import Candidate, Limits, Miss, quickest
from edgekit.verdict._criteria import OBJECTIVES, P50, SIZE, Criterion, choose
from edgekit.verdict._reason import STAND_INS, doubt, nearest, over_by, points, reason, within

KINDS: tuple[Kind, ...] = ("measured", "emulated", "estimated")
"""Best first."""
_LIMITED = {"estimated": "estimated time"}
"""What the p90 limit is compared with, for kinds of timing that have no p90."""


def decide(
    device_name: str,
    artifacts: Sequence[Artifact],
    accuracy: Sequence[Accuracy] | None,
    timings: Sequence[Timing],
    limits: Limits,
    max_drop: float | None,
    refused: Mapping[tuple[str, str], str] = MappingProxyType({}),
    machine: Machine | None = None,
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
        machine: the device's, for its number of cores.

    Returns:
        The choice with its reason and what decided; if nothing is shippable, `artifact` is None and the reason says by
        how much the nearest candidate misses.
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
        return _nothing(device_name, nearest(candidates, kind) + unscored, kind)
    objective = OBJECTIVES[limits.ship_by or "p50"]
    unknown = next((c for c in shippable if objective.of(c) is None), None)
    if unknown is not None:
        unscored += f"; p50 decided, because {unknown.name} has no time {objective.name}"
        objective = P50
    choice = choose(_never_worse(shippable, objective), objective)
    best = choice.best
    doubtful = [] if objective is SIZE else noise.unclear(candidate.timing for candidate in shippable)
    if doubtful:
        rivals = [candidate for candidate in shippable if candidate is not best and candidate.timing in doubtful]
        unscored += f"; {noise.words(doubtful, machine.cores if machine else None, doubt(best, rivals))}"
    baseline = quickest(c for c in shippable if c.is_float) or quickest(c for c in candidates if c.is_float)
    compared = baseline if not best.is_float else None
    return Verdict(
        device=device_name,
        artifact=best.artifact.id,
        engine=best.timing.engine,
        threads=best.timing.threads,
        reason=reason(choice, baseline, candidates, kind, max_drop, limits) + unscored,
        kind=kind,
        baseline=compared.name if compared else None,
        speedup=compared.timing.p50_ms / best.timing.p50_ms if compared else None,
        size_ratio=compared.artifact.bytes / best.artifact.bytes if compared else None,
        top1_drop=best.drop,
        by=choice.by.name,
        undecided=bool(doubtful),
    )


def uncertain(artifacts: Sequence[Artifact], timings: Iterable[Timing]) -> list[Timing]:
    """Timings that are too uncertain to tell which file is the fastest, and worth measuring again.

    Whether accuracy or a limit will refuse a file is not known yet: so the fastest float file and the fastest of the
    others must be known, and the faster of the two.

    Args:
        artifacts: the exported files.
        timings: of one device; only those that were measured, batch 1, count.
    """
    by_id = {artifact.id: artifact for artifact in artifacts}
    rows = [t for t in timings if t.kind == "measured" and t.batch == 1 and not t.reference]
    floats = [row for row in rows if by_id[row.artifact].precision in FLOAT]
    others = [row for row in rows if by_id[row.artifact].precision not in FLOAT]
    found = [row for group in (rows, floats, others) for row in noise.unclear(group)]
    return [row for row in rows if any(row is each for each in found)]


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
    candidates = [Candidate(by_id[timing.artifact], timing, None) for timing in rows]
    if not candidates:
        return ()
    best = choose(_never_worse(candidates, P50), P50).best
    rival = quickest(candidate for candidate in candidates if candidate.is_float != best.is_float)
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
) -> Candidate:
    key = (timing.artifact, timing.engine)
    stand_in = (timing.artifact, STAND_INS.get(timing.engine, timing.engine))
    score = scores.get(key, scores.get(stand_in)) if scores is not None else None
    misses = [Miss(refused[key], float("inf"))] if key in refused else []
    drop = None if score is None or reference is None else 100 * (reference - score.top1)
    if scores is None:
        pass
    elif score is None:
        misses.append(Miss("it was not verified on the test split", float("inf")))
    elif not score.passed:
        problem = f" ({score.problem})" if score.problem else ""
        misses.append(Miss(f"it failed verification{problem}", float("inf")))
    if score is not None and max_drop is not None:
        if drop is None:
            misses.append(Miss(f"{TORCH_FP32} was not scored, so its drop is unknown", float("inf")))
        elif drop > max_drop + 1e-6:  # 90.6 - 89.6 is 1.0000000000000009
            text = f"it loses {points(drop)} of top-1{within(score.lost, max_drop)}"
            misses.append(Miss(text, (drop - max_drop) / max(max_drop, 1)))
    for what, value, limit, unit in (
        (_LIMITED.get(timing.kind, "p90"), timing.p90_ms, limits.p90_ms, "ms"),
        ("p50 alone", None if timing.p90_ms is not None else timing.p50_ms, limits.p90_ms, "ms"),
        ("size", artifact.bytes / 1e6, limits.size_mb, "MB"),
        ("peak memory", timing.rss_bytes / 1e6, limits.rss_mb, "MB"),
    ):
        if limit is not None and value is not None and value > limit:
            over = value / limit - 1
            misses.append(
                Miss(f"its {what} of {value:.3g} {unit} is {over_by(over)} over the {limit:g} {unit} allowed", over)
            )
    return Candidate(artifact, timing, drop, None if score is None else score.lost, tuple(misses))


def _never_worse(shippable: list[Candidate], objective: Criterion) -> list[Candidate]:
    floats = [objective.of(candidate) or 0.0 for candidate in shippable if candidate.is_float]
    if not floats:
        return shippable
    return [c for c in shippable if c.is_float or (objective.of(c) or 0.0) < min(floats)]


def _nothing(device: str, reason: str, kind: Kind | None = None) -> Verdict:
    return Verdict(device=device, artifact=None, engine=None, threads=None, reason=reason, kind=kind)
