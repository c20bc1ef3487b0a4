"""Which operators of a file take the time, by layer of the torch network; and why two files differ in speed."""

from __future__ import annotations

import math
import subprocess
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import Shortfall
from edgekit.graph.names import layer
from edgekit.measurements import OperatorProfile, OperatorRow
from edgekit.reach.worker import Worker, WorkerFault

ARGV = ("-m", "edgekit.runtime.trace")
TIMEOUT = 600.0
"""Seconds beyond what was asked for: a slow device loads a file about a dozen times."""
FAMILIES = {
    "convolutions": ("conv",),
    "dense layers": ("gemm", "fullyconnected", "matmul"),
    "pooling": ("pool", "mean"),
    "multiplications": ("mul",),
    "additions": ("add", "sum"),
    "activations": ("clip", "relu", "swish", "sigmoid", "logistic", "gelu", "softmax", "tanh", "minimum", "maximum"),
    "moves and layouts": ("transpose", "reorder", "reshape", "pad", "concat", "slice", "squeeze", "flatten", "split"),
    "conversions": ("quantize", "cast"),
}
"""Families of operators: the first family with a word that is part of the operator's name."""
OTHER = "others"
FAR = 1.5
"""A profile whose `raw_ms` differs from its total by more than this factor is rough (`rough`)."""
LONGEST = 70
"""Most characters of a layer's name in a sentence."""


def profile_operators(
    path: str | Path,
    artifact_id: str,
    engine: str,
    threads: int = 1,
    seconds: float = 10.0,
    *,
    device: str = "host",
    start: Callable[[Sequence[str]], subprocess.Popen[str]] | None = None,
    provider: str | None = None,
) -> OperatorProfile:
    """Time the operators of one file in a separate process.

    Args:
        path: the file, as the device sees it.
        artifact_id: `Artifact.id`.
        engine: a module of ``edgekit/runtime/engines``.
        threads: thread count of an inference.
        seconds: about how long to measure.
        device: its name in the result.
        start: starts Python with these arguments and with pipes on the device, as `edgekit.reach.ways` do; None:
            this machine.
        provider: execution provider or delegate; None: the engine's choice for the CPU.

    Raises:
        Shortfall: the file cannot be run on the device, or the process died.
    """
    with Worker((start or _here)(ARGV)) as worker:
        try:
            return ask(worker, path, artifact_id, engine, threads, seconds, device, provider)
        except WorkerFault as fault:
            raise Shortfall(f"{artifact_id} on {engine} on {device}: operators were not timed: {fault}") from None


def ask(
    worker: Worker,
    path: str | Path,
    artifact_id: str,
    engine: str,
    threads: int,
    seconds: float,
    device: str,
    provider: str | None,
) -> OperatorProfile:
    """Same as `profile_operators`, by a process started with `ARGV`.

    Raises:
        WorkerFault: the file cannot be run there, the process died, or its answer is not understood.
    """
    request = {"model": str(path), "engine": engine, "threads": threads, "provider": provider, "seconds": seconds}
    answer = worker.ask(request, seconds + TIMEOUT)
    try:
        total = _time(answer["total_ms"])
        return OperatorProfile(
            artifact=artifact_id,
            engine=engine,
            engine_version=str(answer["version"]),
            device=device,
            threads=threads,
            method=str(answer["method"]),
            total_ms=total,
            raw_ms=_time(answer["raw_ms"]),
            rows=tuple(_row(row, total) for row in answer["rows"]),
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise WorkerFault(f"the measuring process returned no valid operator times ({error!r})") from None


def _row(row: Mapping[str, Any], total: float) -> OperatorRow:
    op, name, where, dtype = (str(row[key]) for key in ("op", "name", "where", "dtype"))
    ms = _time(row["ms"])
    return OperatorRow(op, layer(name), ms, ms / total, where, dtype)


def _time(value: Any) -> float:
    if not 0 <= float(value) < math.inf:
        raise ValueError(f"{value} ms")
    return float(value)


def shown(name: str) -> str:
    """A layer's name, short enough for a sentence: other exporters write long ones, of which the end is shown."""
    return name if len(name) <= LONGEST else f"…{name.partition(';')[0][1 - LONGEST :]}"


def hottest(profile: OperatorProfile, count: int = 10) -> tuple[OperatorRow, ...]:
    """The operators that take the most time, slowest first."""
    return tuple(sorted(profile.rows, key=lambda row: -row.ms)[:count])


def rough(profile: OperatorProfile) -> str:
    """A caution if the operators' own times were far from that of a whole inference; else empty."""
    low, high = sorted((profile.raw_ms, profile.total_ms))
    if high <= FAR * low:
        return ""
    return (
        f"the operators of {profile.artifact} added up to {profile.raw_ms:.3g} ms before they were scaled to the "
        f"{profile.total_ms:.3g} ms of a whole inference: its shares are rough"
    )


def family(op: str) -> str:
    """A key of `FAMILIES`, or `OTHER`."""
    word = op.lower().replace("_", "")
    if word.startswith("convert"):  # XNNPACK's name for quantizing
        return "conversions"
    return next((name for name, words in FAMILIES.items() if any(each in word for each in words)), OTHER)


def families(profile: OperatorProfile) -> dict[str, float]:
    """Milliseconds by family, largest first."""
    spent: defaultdict[str, float] = defaultdict(float)
    for row in profile.rows:
        spent[family(row.op)] += row.ms
    return dict(sorted(spent.items(), key=lambda item: -item[1]))


@dataclass(frozen=True)
class Difference:
    """One layer, or one family of operators, in two profiles."""

    name: str
    before_ms: float
    """0 if it takes no time of its own: fused, or absent."""
    after_ms: float

    @property
    def gained_ms(self) -> float:
        """Time that the second profile saves; negative if it is slower."""
        return self.before_ms - self.after_ms


def compare(before: OperatorProfile, after: OperatorProfile) -> tuple[Difference, ...]:
    """Compare two artifacts, or one on two devices, layer by layer; the largest difference first."""
    return _differences(_layers(before.rows), _layers(after.rows))


def compare_families(before: OperatorProfile, after: OperatorProfile) -> tuple[Difference, ...]:
    """Same as `compare`, by family of operators."""
    return _differences(families(before), families(after))


def because(before: OperatorProfile, after: OperatorProfile, same: bool = False) -> str:
    """One sentence: which of the two is faster, by how much, why, and what offsets it.

    Args:
        before: the baseline.
        after: what the sentence is about.
        same: their times cannot be told apart (`edgekit.verdict.noise.equal`), so neither is called faster.
    """
    pair = _title(before, after), _title(after, before)
    ratio = before.total_ms / after.total_ms
    word = "faster" if ratio >= 1 else "slower"
    differences = compare_families(before, after)
    for_it = [each for each in differences if each.gained_ms * (ratio - 1) > 0]
    against = [each for each in differences if each.gained_ms * (ratio - 1) < 0]
    words = "about as fast as" if same else f"{word} than"
    text = f"{pair[1]} is {words} {pair[0]} ({_ms(after.total_ms)} ms against {_ms(before.total_ms)} ms, {ratio:.2f}x)"
    if for_it:
        text += f"{':' if same else ' because'} {_spend(for_it[0], before, after)}"
        if len(for_it) > 1:
            text += f", and {_spend(for_it[1], before, after)}"
    if against and abs(against[0].gained_ms) > 0.02 * before.total_ms:
        text += f"; against it, {_spend(against[0], before, after)}"
    return text


def _spend(difference: Difference, before: OperatorProfile, after: OperatorProfile) -> str:
    rows = [[row for row in each.rows if family(row.op) == difference.name] for each in (before, after)]
    layers = _differences(_layers(rows[0]), _layers(rows[1]))
    most = max(layers, key=lambda each: each.gained_ms * (1 if difference.gained_ms > 0 else -1))
    return (
        f"{difference.name} take {_ms(difference.after_ms)} ms instead of {_ms(difference.before_ms)} ms "
        f"(most in {shown(most.name)}: {_ms(most.after_ms)} against {_ms(most.before_ms)})"
    )


def _ms(value: float) -> str:
    return f"{value:#.3g}".rstrip(".")


def _title(one: OperatorProfile, other: OperatorProfile) -> str:
    parts = [one.artifact]
    parts += [f"with {one.engine}"] if one.engine != other.engine else []
    parts += [f"on {one.device}"] if one.device != other.device else []
    parts += [f"with {one.threads} threads"] if one.threads != other.threads else []
    return " ".join(parts)


def _layers(rows: Sequence[OperatorRow]) -> dict[str, float]:
    spent: defaultdict[str, float] = defaultdict(float)
    for row in rows:
        spent[row.layer] += row.ms
    return spent


def _differences(before: dict[str, float], after: dict[str, float]) -> tuple[Difference, ...]:
    differences = [Difference(name, before.get(name, 0.0), after.get(name, 0.0)) for name in {**before, **after}]
    return tuple(sorted(differences, key=lambda each: -abs(each.gained_ms)))


def _here(argv: Sequence[str]) -> subprocess.Popen[str]:
    from edgekit.device.file import Device
    from edgekit.reach.ways import local

    return local.start(argv, Device(name="host"))
