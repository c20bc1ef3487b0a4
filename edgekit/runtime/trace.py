"""How the time of one inference divides among its operators, on this machine.

``python -m edgekit.runtime.trace`` reads one line of JSON and answers with one::

    -> {"model": path, "engine": name, "threads": n, "provider": name or null, "seconds": s, "seed": n}
    <- {"version", "provider", "method", "total_ms", "raw_ms", "rows": [row, ...]}
       a row: {"op", "name", "ms", "where", "dtype"}

or {"error": "one line"} and exit status 1. `total_ms` is the time of whole inferences without profiling, interleaved
with the others; all times are means of the fastest quarter. Rows are in order of execution. `name` is the engine's name
for the operator (ONNX Runtime, OpenVINO) or the file's for its result (TFLite), `dtype` that of its result.

ONNX Runtime has a profiler of its own (method ``engine profiler``). It slows every operator down by about the same
time, so the excess of their sum over `total_ms` is subtracted from them in equal parts.

ExecuTorch records events (an ETDump), among them those of XNNPACK's operators, in whole microseconds: so means of the
faster three quarters, scaled down if they add up to more than `total_ms`. XNNPACK names them, not the file:
``Fully Connected (NC, QS8, QC8W) GEMM #2`` is the second of that kind.

OpenVINO counts, too: its kernels' times are means over all inferences, in whole microseconds, and if their sum exceeds
`total_ms`, all are scaled down to it. What is fused into a kernel has no row of its own.

The TFLite packages offer no profiler, so parts of the file are timed (method ``prefix differences``): all operators up
to the end of each window, interleaved, give the windows' times, with caches as in a whole inference.
Within a window, its first operator, its first two, its first three, ... give shares, which are scaled to the window's
time. A PAD that the delegate may fuse with the operator behind it is counted with it, as ``PAD + CONV_2D``.

`raw_ms` is the sum of the operators' times before they were adjusted to `total_ms` in these ways.
"""

from __future__ import annotations

import gc
import json
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from time import perf_counter_ns
from typing import IO, Any

import numpy as np

from edgekit.runtime import engine_menu
from edgekit.runtime.bench import random_input
from edgekit.runtime.cut import Graph
from edgekit.runtime.engines import onnxruntime
from edgekit.runtime.errors import RuntimeFault, first_line
from edgekit.runtime.port import Port
from edgekit.runtime.tables import Schema, decode
from edgekit.runtime.tflite import PROVIDERS

PROFILER, DIFFERENCES = "engine profiler", "prefix differences"
BUILTIN = "builtin"
FUSED = ("PAD", "PADV2")
TURN = 10
"""Inferences in a row; the first one finds the caches filled by another model and does not count."""
MIN_TURNS, MAX_TURNS = 3, 60
WINDOWS, WINDOW = 12, 8
"""Most windows, as each holds a model in memory, and fewest operators in one."""
_TYPES = {"float": "float32", "double": "float64"}
_PRECISIONS = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "u8": "uint8", "i8": "int8", "i32": "int32"}
_OWN = re.compile(r"(/WithoutBiases|/Dequantization\w+|/fq_\w+)+$")
"""What OpenVINO appends to a name when it splits an operator."""


def trace(
    model: str, engine: str, threads: int = 1, provider: str | None = None, seconds: float = 10.0, seed: int = 0
) -> dict[str, Any]:
    """The answer described above, for a model with one input.

    Args:
        model: the file.
        engine: a module of ``edgekit/runtime/engines``.
        threads: per inference.
        provider: as `edgekit.runtime.port.Engine.load` takes it.
        seconds: about how long to measure, without loading; at least `MIN_TURNS` are taken.
        seed: seed of the input's values.

    Raises:
        RuntimeFault: the engine or the file cannot be used.
    """
    module: Any = engine_menu.engine(engine)
    version = module.version()
    session = module.load(model, threads, provider)
    used = session.provider
    if module.FORMAT == "executorch":
        session.close()
        answer = _executorch(module, model, threads, seconds, seed)
    elif engine == "openvino":
        answer = _openvino(module.counting(model, threads, provider), session, seconds, seed)
    elif module.FORMAT == "onnx":
        answer = _onnxruntime(module._package(), model, threads, session, seconds, seed)
    else:
        session.close()
        if used not in PROVIDERS:
            raise RuntimeFault(f"operators that run on {used} cannot be timed one by one")
        answer = _interpreter(module._package(), model, threads, used, seconds, seed)
    return {"version": version, "provider": used, **answer}


# --- ONNX Runtime


def _onnxruntime(ort: Any, model: str, threads: int, session: Any, seconds: float, seed: int) -> dict[str, Any]:
    options = onnxruntime.session_options(threads)
    options.enable_profiling = True
    feed = {session.input.name: random_input(session.input, seed)}
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        if session.provider == onnxruntime.WORDS["cpu"]:
            profiled = onnxruntime.cpu_session(model, threads, options)
        else:
            profiled = ort.InferenceSession(model, options, providers=[session.provider])
        total, _ = _turns([lambda: session.run(feed[session.input.name]), lambda: profiled.run(None, feed)], seconds)
        events = json.loads(Path(profiled.end_profiling()).read_text("utf-8"))
    rows: dict[tuple[str, str], dict[str, str]] = {}
    taken: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        about = event["args"]
        key = event["name"], str(about.get("node_index"))
        taken.setdefault(key, []).append(event["dur"] / 1000)
        kinds = [kind for each in about.get("output_type_shape", ()) for kind in each]
        rows[key] = {
            "op": about["op_name"],
            "name": re.sub(r"(_token_\d+)?(_nchwc)?_kernel_time$", "", event["name"]),
            "where": about["provider"],
            "dtype": _TYPES.get(kinds[0], kinds[0]) if kinds else "",
        }
    spent = [_quick([time for place, time in enumerate(times) if place % TURN]) for times in taken.values()]
    overhead = _surplus(spent, total)
    return {
        "method": PROFILER,
        "total_ms": total,
        "raw_ms": sum(spent),
        "rows": [{**row, "ms": max(ms - overhead, 0.0)} for row, ms in _pairs(rows.values(), spent)],
    }


def _surplus(times: Sequence[float], total: float) -> float:
    """What to subtract from each time (but not below 0) so that they add up to no more than `total`."""
    low, high = 0.0, max(times, default=0.0)
    if sum(times) <= total:
        return 0.0
    for _ in range(50):
        middle = (low + high) / 2
        if sum(max(time - middle, 0.0) for time in times) > total:
            low = middle
        else:
            high = middle
    return high


# --- ExecuTorch

_ETDUMP: Schema = {
    "dump": (("version", 4), ("runs", ("run",))),
    "run": (("name", -1), ("input", 4), ("allocators", ("any",)), ("events", ("event",))),
    "any": (),
    "event": (("profile", "profile"),),
    "profile": (
        ("name", -1), ("chain", 4), ("instruction", 4), ("delegate_number", 4), ("delegate_name", -1), ("metadata", -1),
        ("start", 8), ("end", 8),
    ),
}  # fmt: skip
"""Source: ExecuTorch 1.5, ``devtools/etdump/etdump_schema_flatcc.fbs``; times in nanoseconds."""
_WHOLE = ("DELEGATE_CALL", "Method::execute", "OPERATOR_CALL")


def _executorch(module: Any, model: str, threads: int, seconds: float, seed: int) -> dict[str, Any]:
    plain = module.load(model, threads)
    recorded = module.load(model, threads, events=True)
    x = random_input(plain.input, seed)
    total, _ = _turns([lambda: plain.run(x), lambda: recorded.run(x)], seconds)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "events.etdp"
        recorded.write_events(str(file))
        dump = decode(file.read_bytes()[4:], _ETDUMP, "dump")  # its size comes first
    taken: dict[str, list[float]] = {}
    for run in dump["runs"]:
        events = [event["profile"] for event in run.get("events", []) if "profile" in event]
        if bytes(run.get("name", b"")) == b"Execute":
            for event in events:
                name = bytes(event.get("delegate_name") or event.get("name", b"")).decode(errors="replace")
                if name not in _WHOLE:
                    taken.setdefault(name, []).append((event.get("end", 0) - event.get("start", 0)) / 1e6)
    spent = [mean(sorted(times)[: -(-3 * len(times) // 4)]) for times in taken.values()]
    share = min(1.0, total / (sum(spent) or 1.0))
    rows = [
        {"op": re.sub(r" #\d+$", "", name), "name": name, "ms": ms * share, "where": plain.provider, "dtype": ""}
        for name, ms in _pairs(taken, spent)
    ]
    return {"method": PROFILER, "total_ms": total, "raw_ms": sum(spent), "rows": rows}


# --- OpenVINO


def _openvino(counting: Any, session: Any, seconds: float, seed: int) -> dict[str, Any]:
    x = random_input(session.input, seed)
    total, _ = _turns([lambda: session.run(x), lambda: counting.run(x)], seconds)
    kernels, spent = counting.kernels(), counting.spent()
    known = {name for about in kernels.values() for name in about["originalLayersNames"].split(",") if "/" in name}
    raw = sum(ms for _, ms in spent.values())
    rows = []
    for name, (kind, ms) in spent.items():
        about = kernels.get(name, {})
        made_of = [each for each in about.get("originalLayersNames", "").split(",") if "/" in each]
        if not made_of:  # a change of layout, named after what is on both sides of it
            made_of = sorted((each for each in known if name.endswith(f"_{each}")), key=len)[-1:]
        rows.append(
            {
                "op": kind,
                "name": _OWN.sub("", made_of[0]) if made_of else name,
                "ms": ms * min(1.0, total / raw) if raw else 0.0,
                "where": f"{session.provider} {about.get('primitiveType', '')}".rstrip(),
                "dtype": _PRECISIONS.get(about.get("outputPrecisions", ""), about.get("outputPrecisions", "")),
            }
        )
    return {"method": PROFILER, "total_ms": total, "raw_ms": raw, "rows": rows}


# --- TFLite


def _interpreter(package: Any, model: str, threads: int, provider: str, seconds: float, seed: int) -> dict[str, Any]:
    data = Path(model).read_bytes()
    try:
        graph = Graph(data)
    except ValueError as error:
        raise RuntimeFault(f"{model}: cannot be cut into parts: {error}") from None
    kinds = package.OpResolverType
    resolver = kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES if provider == BUILTIN else kinds.AUTO

    def part(first: int, last: int) -> _Part:
        return _Part(package, graph.cut(first, last), threads, resolver, seed)

    whole = _Part(package, data, threads, resolver, seed)
    where = whole.partitions(graph)
    ends = [place for place in range(len(where)) if not _fuses(place, whole.operators, where)]
    width = max(WINDOW, -(-len(ends) // WINDOWS))
    windows = [ends[place : place + width] for place in range(0, len(ends), width)]
    through = _turns([*(part(0, window[-1]).run for window in windows[:-1]), whole.run], seconds / 2)
    for number in reversed(range(len(windows) - 1)):
        through[number] = min(through[number], through[number + 1])  # no part takes longer than the whole
    spent: list[float] = []
    raw = 0.0
    for number, window in enumerate(windows):
        # One more operator in front cancels the fixed time of a run, and of reading inputs from outside.
        start = number * width
        first = ends[start - 2] + 1 if start > 1 else 0
        lasts = [*ends[max(start - 1, 0) : start], *window]
        inner = _turns([part(first, last).run for last in lasts], seconds / 2 / len(windows))
        inner = inner if number else [0.0, *inner]
        alone = [max(inner[place + 1] - inner[place], 0.0) for place in range(len(window))]
        whole_window = through[number] - (through[number - 1] if number else 0.0)
        raw += sum(alone)
        spent += [ms * whole_window / (sum(alone) or 1.0) for ms in alone]
    rows = []
    for place, ms in enumerate(spent):
        end, first = ends[place], ends[place - 1] + 1 if place else 0
        name, dtype = whole.result(graph.writes[end][0])
        op = " + ".join(whole.operators[first : end + 1])
        rows.append({"op": op, "name": name, "ms": ms, "where": where[end], "dtype": dtype})
    return {"method": DIFFERENCES, "total_ms": through[-1], "raw_ms": raw, "rows": rows}


def _fuses(place: int, operators: Sequence[str], where: Sequence[str]) -> bool:
    """Whether the delegate may compute an operator together with the next one."""
    behind = where[place + 1 : place + 2]
    return operators[place] in FUSED and where[place] != BUILTIN and behind == where[place : place + 1]


class _Part:
    """A .tflite file in memory, its inputs filled."""

    def __init__(self, package: Any, data: bytes, threads: int, resolver: Any, seed: int) -> None:
        self._interpreter = package.Interpreter(
            model_content=data, num_threads=threads, experimental_op_resolver_type=resolver
        )
        self._interpreter.allocate_tensors()
        for source in self._interpreter.get_input_details():
            port = Port(source["name"], tuple(source["shape"]), np.dtype(source["dtype"]).name)
            self._interpreter.set_tensor(source["index"], random_input(port, seed))
        nodes = self._interpreter._get_ops_details()
        self.operators = [node["op_name"] for node in nodes if not _delegates(node)]
        self._delegates = [node for node in nodes if _delegates(node)]

    def run(self) -> None:
        """One inference."""
        self._interpreter.invoke()

    def result(self, tensor: int) -> tuple[str, str]:
        """Name and dtype of a tensor."""
        details = next(each for each in self._interpreter.get_tensor_details() if each["index"] == tensor)
        return details["name"], np.dtype(details["dtype"]).name

    def partitions(self, graph: Graph) -> list[str]:
        """What runs each operator: a partition of the delegate, by its number, or the interpreter itself."""
        made = {tensor: place for place, writes in enumerate(graph.writes) for tensor in writes}
        runners = [BUILTIN] * len(graph.writes)
        for number, delegate in enumerate(self._delegates, 1):
            outside = {int(tensor) for tensor in delegate["inputs"]}
            waiting = [int(tensor) for tensor in delegate["outputs"]]
            while waiting:
                tensor = waiting.pop()
                place = made.get(tensor)
                if place is not None and tensor not in outside and runners[place] == BUILTIN:
                    runners[place] = f"XNNPACK {number}"
                    waiting += graph.reads[place]
        return runners


def _delegates(node: dict[str, Any]) -> bool:
    return "DELEGATE" in node["op_name"].upper()


# --- both


def _turns(runs: Sequence[Any], seconds: float) -> list[float]:
    """Time of each, in milliseconds (`_quick`); they take turns of `TURN` calls."""
    taken: list[list[float]] = [[] for _ in runs]
    end = perf_counter_ns() + int(seconds * 1e9)
    turns = 0
    while turns < MIN_TURNS or (turns < MAX_TURNS and perf_counter_ns() < end):
        for run, times in _pairs(runs, taken):
            times += _time(run)[1:]
        turns += 1
    return [_quick(times) for times in taken]


def _quick(times: Sequence[float]) -> float:
    """Mean of the fastest quarter: other load on the machine only ever adds; several, because clocks are coarse."""
    return mean(sorted(times)[: -(-len(times) // 4)])


def _time(run: Any) -> list[float]:
    taken = []
    for _ in range(TURN):
        start = perf_counter_ns()
        run()
        taken.append((perf_counter_ns() - start) / 1e6)
    return taken


def _pairs(one: Any, other: Any) -> Any:
    return zip(one, other)  # noqa: B905 - Python 3.9 has no strict


def serve(requests: IO[str], answers: IO[str]) -> int:
    """Answer one request; returns the exit status."""
    gc.disable()
    status = 0
    try:
        answer = trace(**json.loads(requests.readline()))
    except RuntimeFault as fault:
        status, answer = 1, {"error": str(fault)}
    except Exception as error:  # whatever it is, the host shows it in one line
        status, answer = 1, {"error": f"{type(error).__name__}: {first_line(error)}"}
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
    return status


def _main() -> int:
    # Engines print to file descriptor 1 as they like: keep the real one aside for the answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return serve(sys.stdin, answers)


if __name__ == "__main__":
    sys.exit(_main())
