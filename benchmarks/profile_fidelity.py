"""How far are the profile stage's latencies from a bare loop over the same engine, and do two profiles agree?

    python benchmarks/profile_fidelity.py [MODEL.tflite|MODEL.onnx ...] [--turns 60] [--threads 1]
    python benchmarks/profile_fidelity.py [MODEL ...] --tries 100 [--seconds 3] [--rounds 5] [--fresh]

For each model, the process in which the profile stage measures (`edgekit.runtime.bench`) and a process that only loops
over the engine's own API take turns of a tenth of a second, so that other load on the machine affects both; the ratio
of their p50 must be within 3 %. Then the profiler's own overhead: what its loop adds to a call that
does nothing, and the share of a profile's wall time that is not measured inference.

With --tries N the profile stage measures each model twice, N times, and `edgekit.verdict.stats.ratio` says whether the
two p50 differ: 95 of 100 pairs must agree on a quiet machine. The median width of the confidence interval shows what
difference could be detected. The machine counts as quiet if bare loops before, between and after the two measurements
were within 3 % of each other.

Without models, MobileNetV1 at 96 px with random weights is exported to both formats.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

from edgekit.console import Console
from edgekit.device.file import Device
from edgekit.measurements import Timing
from edgekit.profile.run import profile
from edgekit.reach.ways import local
from edgekit.reach.worker import Worker
from edgekit.runtime import _measure
from edgekit.types import Artifact, TensorSpec
from edgekit.verdict import stats

TFLITE = """
from ai_edge_litert.interpreter import Interpreter
net = Interpreter(model_path=path, num_threads=threads)
net.allocate_tensors()
source, sink = net.get_input_details()[0], net.get_output_details()[0]["index"]
shape, dtype, index = source["shape"], source["dtype"], source["index"]
x = make(shape, dtype)
def run():
    net.set_tensor(index, x)
    net.invoke()
    net.get_tensor(sink)
"""
ONNX = """
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
net = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
source, sink = net.get_inputs()[0], net.get_outputs()[0].name
x = make([size if isinstance(size, int) else 1 for size in source.shape], np.float32)
name = source.name
def run():
    net.run([sink], {name: x})
"""
LOOP = """
import json, sys, time
import numpy as np
path, threads, warmup = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
def make(shape, dtype):
    if np.dtype(dtype).kind == "f":
        return np.random.default_rng(0).random(shape).astype(dtype)
    return np.random.default_rng(0).integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype)
{setup}
print("open", flush=True)
for line in sys.stdin:
    for _ in range(warmup):
        run()
    samples, end = [], time.perf_counter() + float(line)
    while time.perf_counter() < end:
        start = time.perf_counter()
        run()
        samples.append(1000 * (time.perf_counter() - start))
    print(json.dumps(samples), flush=True)
"""


QUIET = 1.03
TURN = 0.1
"""Seconds."""
WARMUP = 5
"""Inferences before each turn."""
TIMEOUT = 120.0


@contextmanager
def bare(path: Path, threads: int) -> Iterator[Callable[[float], list[float]]]:
    """Times of calls of the engine's own API, in milliseconds, measured for a given number of seconds."""
    script = LOOP.format(setup=ONNX if path.suffix == ".onnx" else TFLITE)
    argv = [sys.executable, "-c", script, str(path), str(threads), str(WARMUP)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        while process.stdout.readline() not in ("open\n", ""):
            pass

        def measure(seconds: float) -> list[float]:
            print(seconds, file=process.stdin, flush=True)
            times: list[float] = json.loads(process.stdout.readline())  # type: ignore[union-attr]
            return times

        yield measure


@contextmanager
def ours(path: Path, threads: int) -> Iterator[Callable[[float], list[float]]]:
    """The same, measured by the process of the profile stage."""
    engine = "onnxruntime" if path.suffix == ".onnx" else "litert"
    device = Device.model_validate({"name": "host"})
    with Worker(local.start(["-m", "edgekit.runtime.bench"], device)) as worker:
        request = {"model": str(path), "engine": engine, "threads": threads, "provider": None, "seed": 0}
        worker.ask(request, TIMEOUT)

        def measure(seconds: float) -> list[float]:
            asked = {"run": {"warmup": WARMUP, "seconds": seconds, "min_samples": 1}}
            times: list[float] = worker.ask(asked, TIMEOUT)["ms"]
            return times

        yield measure


def profiled(
    path: Path, threads: int, seconds: float, rounds: int = 1, fresh: bool = False, cooldown: float = 0.0
) -> Timing:
    """What the profile stage reports."""
    onnx = path.suffix == ".onnx"
    tensor = TensorSpec("", (), "", "NHWC")
    artifact = Artifact("model", "onnx" if onnx else "tflite", "", path.name, "", 0, 0, (), tensor, tensor)
    engine = "onnxruntime" if onnx else "litert"
    run = {"engines": [engine], "threads": [threads], "seconds": seconds, "rounds": rounds, "fresh": fresh}
    run["cooldown"] = cooldown
    device = Device.model_validate({"name": "host", "run": run})
    return profile([artifact], path.parent, {"host": device}, Console(quiet=True)).timings[0]


def both_formats(folder: Path) -> list[Path]:
    """MobileNetV1 at 96 px, random weights, as float ONNX and TFLite files."""
    from _nets import network

    from edgekit.export.formats import onnx as to_onnx
    from edgekit.export.formats import tflite as to_tflite

    net = network("mobilenetv1_100", 96)
    return [folder / to.export(net, 96, "fp32", folder).path for to in (to_onnx, to_tflite)]


def fidelity(models: list[Path], threads: int, turns: int) -> None:
    """Bare loop and measuring process in turns."""
    print(f"{'model':<24} {'bare ms':>9} {'profile ms':>11} {'ratio':>7} {'95 % interval':>16}")
    for path in models:
        with bare(path, threads) as theirs, ours(path, threads) as mine:
            for each in (theirs, mine):
                each(1.0)
            samples: dict[Any, list[list[float]]] = {theirs: [], mine: []}
            for turn in range(turns):
                for each in (theirs, mine) if turn % 2 else (mine, theirs):
                    samples[each].append(each(TURN))
        rows: list[Any] = []
        for each in (mine, theirs):
            flat = [ms for times in samples[each] for ms in times]
            sizes = tuple(map(len, samples[each]))
            rows.append(SimpleNamespace(samples=flat, round_sizes=sizes, p50_ms=median(flat)))
        found = stats.ratio(rows[0], rows[1], interleaved=True)
        low, high = found.ci or (found.value, found.value)
        verdict = "within 3 %" if abs(found.value - 1) <= 0.03 else "NOT within 3 %"
        print(f"{path.name:<24} {rows[1].p50_ms:>9.4f} {rows[0].p50_ms:>11.4f} {found.value:>7.3f}", end="")
        print(f" {f'{low:.3f}..{high:.3f}':>16}  {verdict}", flush=True)


def overhead(path: Path, threads: int, seconds: float) -> None:
    """What the profiler itself costs."""
    empty = median(_measure.measure(lambda x: None, None, 0, 0.5, 1000))
    start = time.perf_counter()
    timing = profiled(path, threads, seconds, rounds=5)
    wall = time.perf_counter() - start
    inferring = sum(timing.samples) / 1000
    share = empty / timing.p50_ms
    print(f"{path.name}: the loop adds {1e6 * empty:.0f} ns to a sample, {share:.3%} of p50; of {wall:.1f} s for a row")
    print(f"  {inferring:.1f} s are samples, the rest is starting Python and the engine, loading, and warming up")


def agreement(path: Path, threads: int, seconds: float, rounds: int, tries: int, fresh: bool, cooldown: float) -> None:
    """Pairs of profiles, with a bare loop before, between and after them."""
    found, quiet = [], []
    with bare(path, threads) as loop:
        for _ in range(tries):
            beside, pair = [median(loop(seconds / 3))], []
            for _ in range(2):
                pair.append(profiled(path, threads, seconds, rounds, fresh, cooldown))
                beside.append(median(loop(seconds / 3)))
            found.append(stats.ratio(*pair))
            quiet.append(max(beside) <= QUIET * min(beside))
    values = [each.value for each in found]
    width = median(each.ci[1] - each.ci[0] for each in found if each.ci)
    calm = [each for each, still in zip(found, quiet, strict=True) if still]
    print(f"{path.name}: {sum(not each.differs for each in found)} of {tries} pairs agree; ratio of p50 ", end="")
    print(f"{min(values):.3f}..{max(values):.3f}, median width of its interval {width:.1%}")
    print(f"  {sum(not each.differs for each in calm)} of {len(calm)} while the machine was quiet", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tries", type=int, default=0)
    parser.add_argument("--fresh", action="store_true", help="with --tries: a new process for each round")
    parser.add_argument("--cooldown", type=float, default=0.0, help="with --tries: seconds between rounds")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = [path.resolve() for path in options.models] or both_formats(Path(folder))
        if options.tries:
            for path in models:
                agreement(
                    path,
                    options.threads,
                    options.seconds,
                    options.rounds,
                    options.tries,
                    options.fresh,
                    options.cooldown,
                )
            return
        fidelity(models, options.threads, options.turns)
        for path in models:
            overhead(path, options.threads, options.seconds)


if __name__ == "__main__":
    main()
