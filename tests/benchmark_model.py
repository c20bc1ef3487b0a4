"""A stand-in for TFLite's ``benchmark_model``, whose binaries are built for phones: LiteRT's Python runs the file, and
what is timed is printed in the words and the order of ``benchmark_model.cc`` and ``benchmark_tflite_model.cc``.

``STYLE`` in the environment: "old" is TensorFlow 2.4, "new" (or nothing) LiteRT 1.x, which adds percentiles.
"""

from __future__ import annotations

import os
import resource
import sys
from time import perf_counter_ns, sleep
from typing import Any

KNOWN = {
    "graph", "num_threads", "num_runs", "min_secs", "max_secs", "warmup_runs", "warmup_min_secs", "use_gpu",
    "use_xnnpack", "report_peak_memory_footprint", "memory_footprint_check_interval_ms",
}  # fmt: skip
NEW = (os.environ.get("STYLE") or "new") == "new"
INFO, WARN = ("INFO: ", "WARN: ") if NEW else ("", "")


def say(text: str, level: str = INFO) -> None:
    print(level + text, flush=True)


def rss_kb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def stats(times: list[int]) -> str:
    """As ``StatWithPercentiles::OutputToStream`` (std::ostream has six digits), whole microseconds."""
    text = f"count={len(times)}"
    if not times or min(times) == max(times):
        text += f" curr={times[-1] if times else 0}" + ("(all same)" if len(times) > 1 else "")
    else:
        mean = sum(times) / len(times)
        deviation = int((sum((t - mean) ** 2 for t in times) / len(times)) ** 0.5)
        text += f" first={times[0]} curr={times[-1]} min={min(times)} max={max(times)} avg={mean:g} std={deviation}"
    if NEW:
        ranked = sorted(times) or [0]
        p5, median, p95 = (ranked[min(len(ranked) * share // 100, len(ranked) - 1)] for share in (5, 50, 95))
        text += f" p5={p5} median={median} p95={p95}"
    return text


def run(invoke: Any, count: int, least: float) -> list[int]:
    say(
        f"Running benchmark for at least {count} iterations and at least {least:g} seconds but terminate if "
        "exceeding 150 seconds."
    )
    times: list[int] = []
    end = perf_counter_ns() + int(least * 1e9)
    while len(times) < count or perf_counter_ns() < end:
        start = perf_counter_ns()
        invoke()
        times.append((perf_counter_ns() - start) // 1000)
    say(stats(times) + "\n")
    return times


def main(words: list[str]) -> int:
    flags = dict(word.removeprefix("--").split("=", 1) for word in words if "=" in word)
    say("STARTING!")
    if "--help" in words:
        print(
            "ERROR: usage: benchmark_model <flags>\nFlags:\n\t--graph=\tstring\trequired\tgraph file name",
            file=sys.stderr,
        )
        return 1
    unknown = [f"--{name}={value}" for name, value in flags.items() if name not in KNOWN]
    if unknown:
        say(f"Unconsumed cmdline flags: {' '.join(unknown)}", WARN)
    if os.environ.get("SLEEP"):
        sleep(float(os.environ["SLEEP"]))
    from ai_edge_litert.interpreter import Interpreter

    say(f"Graph: [{flags['graph']}]")
    before, start = rss_kb(), perf_counter_ns()
    try:
        interpreter = Interpreter(model_path=flags["graph"], num_threads=int(flags["num_threads"]))
    except ValueError:
        print(f"ERROR: Failed to load model {flags['graph']}\nERROR: Benchmarking failed.", file=sys.stderr)
        return 1
    if flags.get("use_gpu") == "true":
        say("Though GPU delegate is explicitly applied, the model graph will not be executed by the delegate.")
    else:
        print("INFO: Created TensorFlow Lite XNNPACK delegate for CPU.", file=sys.stderr, flush=True)
    interpreter.allocate_tensors()
    init, after = (perf_counter_ns() - start) // 1000, rss_kb()
    say(f"Loaded model {flags['graph']}")
    warm = run(interpreter.invoke, int(flags["warmup_runs"]), float(flags["warmup_min_secs"]))
    times = run(interpreter.invoke, int(flags["num_runs"]), float(flags["min_secs"]))
    warm = warm or [0]
    say(
        f"Inference timings in us: Init: {init}, First inference: {warm[0]}, Warmup (avg): {sum(warm) / len(warm):g}, "
        f"Inference (avg): {sum(times) / len(times):g}"
    )
    say("Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual")
    overall = (rss_kb() - before) / 1024
    say(f"Memory footprint delta from the start of the tool (MB): init={(after - before) / 1024:g} overall={overall:g}")
    if flags.get("report_peak_memory_footprint") == "true":
        say(f"Overall peak memory footprint (MB) via periodic monitoring: {rss_kb() / 1024:g}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
