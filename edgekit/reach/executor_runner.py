"""What to pass to ExecuTorch's command-line program ``executor_runner`` and what it prints; nothing is run here.

Source: ExecuTorch's ``examples/portable/executor_runner/executor_runner.cpp`` and its history, and for the form of a
line ``runtime/platform/default/posix.cpp``. Only newer versions print "Iteration 1 of 9: 0.5 ms" and "Model loaded in
40 ms.", and know --print_output. None prints its memory, its own version, or which backend ran. All inputs are ones.
It has no flag for seconds: the number of inferences is worked out from the time that one took before.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from statistics import fmean, median

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
from edgekit.runtime import pte
from edgekit.runtime.errors import RuntimeFault

NAME = "executor_runner"
FORMAT, SUFFIX = "executorch", ".pte"
INPUT = "tensors of ones"
HELP = "num_executions"
OURS = {
    "model_path", "num_executions", "cpu_threads", "print_output", "etdump_path", "method_name", "inputs",
    "input_shapes", "output_file", "server_mode", "data_path", "undefok", "help", "flagfile", "fromenv", "tryfromenv",
}  # fmt: skip
"""Flags that a device file may not set: they decide what is measured, and how."""
WHERE = (
    f"{NAME} is built from ExecuTorch's sources with the Android NDK (cmake -DCMAKE_TOOLCHAIN_FILE=$ANDROID_NDK/build/"
    "cmake/android.toolchain.cmake -DANDROID_ABI=arm64-v8a -DCMAKE_BUILD_TYPE=Release -DEXECUTORCH_BUILD_XNNPACK=ON "
    f"-DEXECUTORCH_ENABLE_LOGGING=ON, target {NAME}); none is published"
)
PEAK: tuple[str, ...] = ()
FINE = 0.0
MOST = 30_000
"""Inferences in one run: newer versions print a line for each, and `edgekit.reach.adb_shell.MOST` bounds them."""

_SILENT = (
    "-DEXECUTORCH_ENABLE_LOGGING=ON prints times, which release builds leave out, and EXECUTORCH_PAL_DEFAULT must stay "
    '"posix" (the preset "android" logs to logcat)'
)
_LINE = re.compile(r"^([DIEF]) (\d\d):(\d\d):(\d\d\.\d+) executorch:[^\]\n]*\] (.*)$", re.MULTILINE)
_POOL = re.compile(r"Resetting threadpool (?:with num threads =|to) (\d{1,9})\b")
_LOADED = re.compile(r"Model loaded in (\S+) ms\.")
_ITERATION = re.compile(r"Iteration (\d{1,9}) of (\d{1,9}): (\S+) ms")
_DONE = re.compile(r"Model executed successfully (\d{1,9}) time\(s\) in (\S+) ms\.")
_UNKNOWN = re.compile(r"unknown command line flag '([^'\n]*)'")
_STATUS = re.compile(r"status 0x([0-9a-fA-F]+)")
_ASSERTED = re.compile(r"In function .*?, assert failed(?: \(.*?\))?: ")
_STATUSES = {
    0x14: "an operator is missing", 0x20: "something is not found", 0x21: "out of memory", 0x23: "not a valid program",
    0x30: "made for another version of the backend", 0x31: "the backend is out of memory",
}  # fmt: skip
"""Source: ``runtime/core/error.h`` of ExecuTorch 1.5."""
_BACKENDS = {"XnnpackBackend": "XNNPACK"}


def checked(flags: Sequence[str]) -> None:
    """Check a device file's flags; see `edgekit.reach.program.Program`, as for all below."""
    check_flags(flags, NAME, OURS)


def arguments(ask: Ask) -> list[str]:
    """What to pass for one run."""
    warmup, runs = inferences(ask)
    return [
        f"--model_path={ask.model}",
        f"--cpu_threads={ask.threads}",
        f"--num_executions={warmup + runs}",
        "--undefok=print_output,etdump_path",  # flags of newer versions, and of builds that record events
        "--print_output=none",
        "--etdump_path=/dev/null",  # else into the current folder, which is read-only
    ]


def inferences(ask: Ask) -> tuple[int, int]:
    """Inferences of a run that do not count, and that do; one alone where it is not yet known how long one takes."""
    if not ask.each_ms:
        return 0, 1
    warmup, runs = (
        max(least, math.ceil(min(1000 * seconds / ask.each_ms, MOST)))
        for least, seconds in ((ask.warmup, ask.warmup_seconds), (ask.runs, ask.seconds))
    )
    warmup = min(warmup, MOST // 2)
    return warmup, max(1, min(runs, MOST - warmup))


def read(text: str, ask: Ask) -> Said:
    """Parse the figures that a run printed. An older version's mean covers the warm-up, too."""
    lines = [(m[1], _seconds(m[2], m[3], m[4]), m[5]) for m in _LINE.finditer(text)]
    end = next((at for at, line in enumerate(lines) if _DONE.match(line[2])), None)
    if end is None:
        last = last_line(text) if text.strip() else "none at all"
        why = f"; {_SILENT}" if not lines else ""
        raise Fault(f"it printed no times of {NAME}; its last line: {last}{why}")
    told = [line for _, _, line in lines[: end + 1]]
    _check_threads(told, ask.threads)
    warmup, runs = inferences(ask)
    done = _DONE.match(told[-1])
    assert done is not None
    count, total = int(done[1]), number(done[2], "the time of all")
    if count != warmup + runs:
        raise Fault(f"{warmup + runs} inferences were asked for, it reports {printable(done[1])}")
    found = [m for line in told if (m := _ITERATION.match(line))]
    each = [number(m[3], "an iteration") for m in found]
    if each and not (
        [(int(m[1]), int(m[2])) for m in found] == [(place, count) for place in range(1, count + 1)]
        and math.isclose(sum(each), total, rel_tol=1e-6, abs_tol=1e-6 * (count + 1))
    ):
        raise Fault(f"its figures make no sense: {len(each)} iterations of {sum(each):g} ms, {printable(told[-1])}")
    loaded = next((number(m[1], "the time of loading") for line in told if (m := _LOADED.match(line))), None)
    if loaded is None:
        loaded = max(0.0, 1000 * (lines[end][1] - _start(lines)) - total)
    mean = 1000 * total / count
    return Said(
        init_us=1000 * loaded,
        first_us=1000 * each[0] if each else mean,
        warmup=warmup,
        times=_spread(each[warmup:]) if each else Spread(count, mean, mean, mean, None, None, warmed=not warmup),
    )


def batch(data: bytes, where: str) -> int:
    """The first dimension of the file's first input."""
    inputs = _contents(data, where).inputs
    return inputs[0].shape[0] if inputs and inputs[0].shape else 1


def provider(text: str, flags: Sequence[str], allow_fallback: bool, data: bytes) -> str:
    """What the file was exported for: the program does not print what ran, but ends if it lacks that."""
    found = _contents(data, "the file")
    backends = list(dict.fromkeys(_BACKENDS.get(name, name) for name in found.delegates)) or ["portable kernels"]
    outside = f", {len(found.operators)} operator calls outside" if found.delegates and found.operators else ""
    events = ", events recorded" if "ETDump written to" in text else ""
    return f"{' and '.join(backends)} (by the file{outside}{events})"


def failure(status: int, text: str, binary: str) -> str:
    """Why a run ended with a nonzero status, in one line: what it gave up on, and the first error before that."""
    problem = not_started(status, text, binary, WHERE)
    if problem:
        return problem
    unknown = _UNKNOWN.search(text)
    if unknown:
        return f"this {NAME} does not know --{printable(unknown[1])}; if edgekit set that, build a newer one: {WHERE}"
    errors = [_ASSERTED.sub("", m[5]) for m in _LINE.finditer(text) if m[1] in "EF"]
    how = ended(NAME, status)
    if not errors:
        return f"{how}: {last_line(text)}" + (f"; {_SILENT}" if not _LINE.search(text) and status > 128 else "")
    code = _STATUS.search(errors[-1])
    word = _STATUSES.get(int(code[1], 16)) if code and len(code[1]) < 9 else None
    parts = [errors[-1] + (f" ({word})" if word else ""), *(errors[:1] if len(errors) > 1 else [])]
    text = f"{how}: {printable(': '.join(parts))}"
    missing = re.search(r"Backend (\w+) is not registered", errors[0])
    return text + (f"; build it with {missing[1]}, e.g. -DEXECUTORCH_BUILD_XNNPACK=ON" if missing else "")


def _check_threads(told: Sequence[str], threads: int) -> None:
    """Fault if the run had another number of threads, as a build without a thread pool has."""
    pools = [int(m[1]) for line in told if (m := _POOL.match(line))]
    if (pools or [1])[-1] != threads:
        why = "" if pools else ", as this build has no thread pool (-DEXECUTORCH_BUILD_PTHREADPOOL=ON)"
        raise Fault(f"{threads} threads were asked for, {NAME} has {(pools or [1])[-1]}{why}")


def _start(lines: Sequence[tuple[str, float, str]]) -> float:
    """When an older version began to load: at its last line before it had the file, or at its start."""
    at = next((at for at, line in enumerate(lines) if line[2].startswith("Model file ")), 0)
    return lines[at - 1][1] if at else 0.0


def _seconds(hours: str, minutes: str, seconds: str) -> float:
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)


def _spread(ms: Sequence[float]) -> Spread:
    """Statistics of single times; p95 is that of rank ``count * 95 // 100``, as in `benchmark_model`."""
    us = sorted(1000 * each for each in ms)
    return Spread(len(us), fmean(us), us[0], us[-1], median(us), us[len(us) * 95 // 100])


def _contents(data: bytes, where: str) -> pte.Contents:
    try:
        return pte.contents(data, where)
    except RuntimeFault as fault:
        raise Fault(str(fault)) from None
