"""What to pass to TFLite's command-line program ``benchmark_model`` and what it prints; nothing is run here.

Source: ``tools/benchmark`` of TensorFlow Lite and of LiteRT (README.md, benchmark_model.cc, benchmark_tflite_model.cc,
and stats_calculator.h for the line ``count=``). Lines differ by version: newer ones start with ``INFO:``, and only
newer ones print ``p5=``, ``median=`` and ``p95=``. No version prints single times or its own version. It ignores an
unknown flag with a warning; here that is a fault.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgekit.reach.program import (
    Ask,
    Fault,
    Said,
    Spread,
    check_flags,
    ended,
    last_line,
    not_started,
    number,
    printable,
)
from edgekit.runtime.cut import Graph

NAME = "benchmark_model"
FORMAT, SUFFIX = "tflite", ".tflite"
INPUT = "random tensors"
HELP = "--graph"
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
CHECK = 5
"""Milliseconds between two looks at the memory."""
PEAK: tuple[str, ...] = ("--report_peak_memory_footprint=true", f"--memory_footprint_check_interval_ms={CHECK}")
"""For a run of its own, as looking takes time."""

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


def checked(flags: Sequence[str]) -> None:
    """Check a device file's flags; see `edgekit.reach.program.Program`, as for all below."""
    check_flags(flags, NAME, OURS)


def arguments(ask: Ask) -> list[str]:
    """What to pass for one run; it keeps the seconds itself."""
    return [
        f"--graph={ask.model}",
        f"--num_threads={ask.threads}",
        f"--warmup_runs={ask.warmup}",
        f"--warmup_min_secs={ask.warmup_seconds:.3f}",
        f"--num_runs={ask.runs}",
        f"--min_secs={ask.seconds:.3f}",
    ]


def read(text: str, _: Ask | None = None) -> Said:
    """Parse the figures that a run printed, whatever was asked for.

    Raises:
        Fault: a flag was ignored, or figures are missing or not plausible.
    """
    unknown = _UNKNOWN.search(text)
    if unknown:
        raise Fault(f"this {NAME} does not know {printable(unknown[1].strip())}")
    timings, counts = _TIMINGS.search(text), _COUNT.findall(text)
    if timings is None or len(counts) < 2:
        last = last_line(text) if text.strip() else "none at all"
        raise Fault(f"it printed no times of {NAME}; its last line: {last}")
    warmup, times = (_spread(line) for line in counts[:2])
    return Said(
        init_us=number(timings[1], "Init"),
        first_us=number(timings[2], "First inference"),
        warmup=warmup.count,
        times=times,
        footprint_mb=_found(_FOOTPRINT, text),
        peak_mb=_found(_PEAK, text),
    )


def batch(data: bytes, where: str) -> int:
    """The first dimension of the file's first input."""
    try:
        graph = Graph(data)
        shape = graph.shape(graph.inputs[0])
    except (ValueError, IndexError) as error:
        raise Fault(f"{where}: cannot be read as a .tflite file: {error}") from None
    return shape[0] if shape else 1


def provider(text: str, flags: Sequence[str], allow_fallback: bool, _: bytes = b"") -> str:
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
    problem = not_started(status, text, binary, WHERE)
    if problem:
        return problem
    if status > 128:
        return f"{ended(NAME, status)}: {last_line(text)}"
    told = [printable(line.strip()) for line in text.splitlines() if re.search(r"ERROR|FATAL|rror:", line)]
    wrong = [line for line in told if not line.endswith("Benchmarking failed.")]
    return f"{ended(NAME, status)}: {(wrong or told or [last_line(text)])[-1]}"


def _spread(line: str) -> Spread:
    fields = dict(_FIELD.findall(line))
    count = number(fields.get("count", ""), "count")
    same = number(fields.get("curr", ""), "curr")  # count=1, or all equal: nothing else is printed
    mean = number(fields["avg"], "avg") if "avg" in fields else same
    low, high = (number(fields[key], key) if key in fields else same for key in ("min", "max"))
    median, p95 = (number(fields[key], key) if key in fields else None for key in ("median", "p95"))
    if count and not low * (1 - 1e-5) <= mean <= high * (1 + 1e-5):  # avg= has six digits
        raise Fault(f"its figures make no sense: {printable(line)}")
    return Spread(int(count), mean, low, high, median, p95)


def _found(pattern: re.Pattern[str], text: str) -> float | None:
    match = pattern.search(text)
    return None if match is None else number(match[1], "memory")
