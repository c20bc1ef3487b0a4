"""What to pass to TFLite's command-line program ``benchmark_model`` and what it prints; nothing is run here.

Source: ``tools/benchmark`` of TensorFlow Lite and of LiteRT (README.md, benchmark_model.cc, benchmark_tflite_model.cc,
and stats_calculator.h for the line ``count=``). Lines differ by version: newer ones start with ``INFO:``, and only
newer ones print ``p5=``, ``median=`` and ``p95=``. No version prints single times or its own version. It ignores an
unknown flag with a warning; here that is a fault.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

NAME = "benchmark_model"
THERE = "phone:"
"""Prefix of a path on the phone, in a device file."""
OURS = {
    "graph", "num_threads", "num_runs", "min_secs", "max_secs", "run_delay", "run_frequency", "warmup_runs",
    "warmup_min_secs", "dry_run", "help", "report_peak_memory_footprint", "memory_footprint_check_interval_ms",
    "enable_op_profiling", "input_layer", "input_layer_shape",
}  # fmt: skip
"""Flags that a device file may not set: they decide what is measured, and how."""
WHERE = (
    f"{NAME} is built from TensorFlow or LiteRT (bazel build -c opt --config=android_arm64 "
    "//tensorflow/lite/tools/benchmark:benchmark_model), or downloaded as android_aarch64_benchmark_model "
    "(https://www.tensorflow.org/lite/performance/measurement)"
)
FINE = 100.0
"""Microseconds: the median is printed as a whole number, so below this the mean is more precise."""

_FLAG = re.compile(r"--(\w+)=(.*)", re.DOTALL)
_PREFIX = r"^(?:(?:INFO|WARN|WARNING|ERROR|FATAL|VERBOSE): ?)?"
_COUNT = re.compile(_PREFIX + r"count=\d.*$", re.MULTILINE)
_FIELD = re.compile(r"(\w+)=([-+.\deE]+)")
_TIMINGS = re.compile(
    r"Inference timings in us: Init: (\S+), First inference: (\S+), Warmup \(avg\): (\S+), Inference \(avg\): (\S+)"
)
_FOOTPRINT = re.compile(r"emory footprint (?:delta from the start of the tool )?\(MB\): init=\S+ overall=(\S+)")
_PEAK = re.compile(r"Overall peak memory footprint \(MB\) via periodic monitoring: (\S+)")
_UNKNOWN = re.compile(r"Unconsumed cmdline flags: (.+)")
_APPLIED = re.compile(r"Explicitly applied (.+?) delegate, and the model graph will be (completely|partially)")
_IDLE = re.compile(r"Though (.+?) delegate is explicitly applied, the model graph will not be")
_REPLACED = re.compile(r"Replacing (\d+) out of (\d+) node\(s\) with delegate \((\w+)\)")
_DEFAULT = re.compile(r"Created TensorFlow Lite XNNPACK delegate for CPU")
_ELSEWHERE = re.compile(r"--(?:use_(?!xnnpack|cpu|caching|profiler)(\w+)=(?:true|1)|(external_delegate)_path=.+)")


class Fault(Exception):
    """It did not measure, or its output is not understood; one line says which."""


@dataclass(frozen=True)
class Spread:
    """One line ``count=``: statistics over the inferences of one run, in microseconds."""

    count: int
    mean: float
    min: float
    max: float
    median: float | None
    """None if this version prints none; so is `p95`."""
    p95: float | None


@dataclass(frozen=True)
class Said:
    """What one run printed."""

    init_us: float
    first_us: float
    warmup: int
    """Number of warm-up inferences."""
    times: Spread
    footprint_mb: float | None
    """Growth of the tool's peak resident set in MiB; None if not printed; so is `peak_mb`."""
    peak_mb: float | None


def checked(flags: Sequence[str]) -> None:
    """Check that a device file's flags are ``--name=value``, and none of `OURS`.

    Raises:
        ValueError: they are not; the caller adds where.
    """
    for flag in flags:
        match = _FLAG.fullmatch(flag)
        if match is None or not flag.isprintable():
            raise ValueError(f'"{flag}": write flags of {NAME} as "--name=value"')
        if match[1] in OURS:
            raise ValueError(f"--{match[1]}: edgekit sets this itself; [run] controls how to measure")


def read(text: str) -> Said:
    """Parse the figures that a run printed.

    Raises:
        Fault: a flag was ignored, or figures are missing or not plausible.
    """
    unknown = _UNKNOWN.search(text)
    if unknown:
        raise Fault(f"this {NAME} does not know {printable(unknown[1].strip())}")
    timings, counts = _TIMINGS.search(text), _COUNT.findall(text)
    if timings is None or len(counts) < 2:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        raise Fault(f"it printed no times of {NAME}; its last line: {printable(lines[-1]) if lines else 'none at all'}")
    warmup, times = (_spread(line) for line in counts[:2])
    return Said(
        init_us=_number(timings[1], "Init"),
        first_us=_number(timings[2], "First inference"),
        warmup=warmup.count,
        times=times,
        footprint_mb=_found(_FOOTPRINT, text),
        peak_mb=_found(_PEAK, text),
    )


def provider(text: str, flags: Sequence[str], allow_fallback: bool) -> str:
    """What computed the graph, according to the output of a run.

    Raises:
        Fault: a delegate was asked for and did not run the whole graph, or the output does not say; not raised
            with `allow_fallback`, where the result says so instead.
    """
    text = "\n".join(printable(line) for line in text.splitlines())
    asked = next((m[1] or m[2] for flag in flags if (m := _ELSEWHERE.fullmatch(flag))), None)
    applied, idle = _APPLIED.search(text), _IDLE.search(text)
    parts = [(int(m[1]), int(m[2]), m[3]) for m in _REPLACED.finditer(text)]
    share = f" ({parts[-1][0]} of {parts[-1][1]} operators)" if parts else ""
    if asked is None:
        if applied is not None:
            return f"{applied[1]} delegate{share}"
        if idle is not None:
            return "CPU, no delegate"
        return f"XNNPACK delegate{share}" if _DEFAULT.search(text) or "XNNPack" in _last(parts) else "CPU"
    if applied is not None and applied[2] == "completely":
        return f"{applied[1]} delegate"
    if applied is None and idle is None and parts and parts[-1][0] == parts[-1][1]:
        return f"{parts[-1][2]}"
    if applied is not None:
        ran, problem = f"{applied[1]} delegate{share}, the rest on the CPU", "runs a part of the graph only"
    elif parts and idle is None:
        ran, problem = f"{parts[-1][2]}{share}, the rest on the CPU", "runs a part of the graph only"
    elif idle is not None:
        ran, problem = f"CPU, as the {idle[1]} delegate took nothing", "runs nothing of the graph"
    else:
        ran, problem = f"{asked} asked for, but not told what ran", "is not named in what it printed"
    if not allow_fallback:
        raise Fault(f"the delegate asked for ({asked}) {problem}{share}; run.allow_fallback = true takes it as it is")
    return ran


def _last(parts: Sequence[tuple[int, int, str]]) -> str:
    """The delegate that took operators last; empty if none did."""
    return parts[-1][2] if parts else ""


def failure(status: int, text: str, binary: str) -> str:
    """Why a run ended with a nonzero status, in one line.

    Args:
        status: as the phone's shell reports it.
        text: everything that was printed.
        binary: the program's path.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = printable(lines[-1]) if lines else "it printed nothing"
    if any(word in text for word in ("not executable:", "Exec format error", "cannot execute binary file")):
        return f"{binary} is built for a different processor than the phone's ({last}). {WHERE}"
    if status == 127:
        return f"there is no {binary} on the phone ({last}). {WHERE}"
    if status == 126:
        return f"the phone cannot execute {binary} ({last}): chmod 755 it, in a folder such as /data/local/tmp"
    if "CANNOT LINK EXECUTABLE" in text:
        words = next(line for line in lines if "CANNOT LINK EXECUTABLE" in line)
        return f"{binary} needs a library that is not on the phone: {printable(words)}"
    if status > 128:
        return f"{NAME} was killed by signal {status - 128}{_SIGNALS.get(status - 128, '')}: {last}"
    told = [printable(line) for line in lines if re.search(r"ERROR|FATAL|rror:", line)]
    wrong = [line for line in told if not line.endswith("Benchmarking failed.")]
    return f"{NAME} ended with status {status}: {(wrong or told or [last])[-1]}"


_SIGNALS = {4: " (illegal instruction)", 6: " (it aborted)", 9: " (out of memory?)", 11: " (it crashed)"}


def printable(text: str) -> str:
    """At most 200 characters of `text`, with those that are not printable replaced."""
    return "".join(c if c.isprintable() else "?" for c in text)[:200]


def _spread(line: str) -> Spread:
    fields = dict(_FIELD.findall(line))
    count = _number(fields.get("count", ""), "count")
    same = _number(fields.get("curr", ""), "curr")  # count=1, or all equal: nothing else is printed
    mean = _number(fields["avg"], "avg") if "avg" in fields else same
    low, high = (_number(fields[key], key) if key in fields else same for key in ("min", "max"))
    median, p95 = (_number(fields[key], key) if key in fields else None for key in ("median", "p95"))
    if count and not low * (1 - 1e-5) <= mean <= high * (1 + 1e-5):  # avg= has six digits
        raise Fault(f"its figures make no sense: {printable(line)}")
    return Spread(int(count), mean, low, high, median, p95)


def _number(word: str, name: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise Fault(f'its figures make no sense: {name} is "{printable(word)}"')
    return value


def _found(pattern: re.Pattern[str], text: str) -> float | None:
    match = pattern.search(text)
    return None if match is None else _number(match[1], "memory")
