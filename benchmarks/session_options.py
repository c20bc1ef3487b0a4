"""Whether any of ONNX Runtime's session options makes an int8 file faster than its defaults; one thread, 224 px.

The files are those of `int8_speed.py`. Each option alone and the defaults are timed in one process in short interleaved
rounds; a ratio is the median over the rounds of the defaults' time over the option's, above 1 where the option is
faster. "io binding" is no option, but a call without copies of input and output.

Usage::

    python benchmarks/session_options.py mobilenetv3_small_100 efficientnet_b0 --keep speed
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from int8_speed import make, repeat

from edgekit.runtime.engines.onnxruntime import session_options

NETS = ("mobilenetv3_small_100", "efficientnet_b0")
ATTRIBUTES: dict[str, tuple[str, Any]] = {
    "no arena": ("enable_cpu_mem_arena", False),
    "no memory pattern": ("enable_mem_pattern", False),
    "extended level": ("graph_optimization_level", onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED),
    "order by priority": ("execution_order", onnxruntime.ExecutionOrder.PRIORITY_BASED),
}
ENTRIES = {
    "no spinning": ("session.intra_op.allow_spinning", "0"),
    "denormals as zero": ("session.set_denormal_as_zero", "1"),
    "Q/DQ clean-up": ("session.enable_quant_qdq_cleanup", "1"),
    "Q/DQ of int8": ("session.qdqisint8allowed", "1"),
    "no prepacking": ("session.disable_prepacking", "1"),
}
RUNS, ROUNDS = 10, 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", default=NETS)
    parser.add_argument("--keep", type=Path, help="folder for the files; existing ones are reused")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for name in given.nets:
            folder = (given.keep or Path(temporary)) / name
            folder.mkdir(parents=True, exist_ok=True)
            make(name, folder)
            compare(name, calls(folder / "int8.onnx"))


def calls(file: Path) -> dict[str, Callable[[], object]]:
    """An inference with each option, by its name; the first with the defaults."""
    options = {title: session_options(1) for title in ("defaults", *ATTRIBUTES, *ENTRIES)}
    for title, (attribute, value) in ATTRIBUTES.items():
        setattr(options[title], attribute, value)
    for title, entry in ENTRIES.items():
        options[title].add_session_config_entry(*entry)
    made = {
        title: onnxruntime.InferenceSession(str(file), each, providers=["CPUExecutionProvider"])
        for title, each in options.items()
    }
    source, sink = made["defaults"].get_inputs()[0], made["defaults"].get_outputs()[0]
    x = np.random.default_rng(0).normal(size=source.shape).astype(np.float32)
    bound = made["defaults"].io_binding()
    bound.bind_cpu_input(source.name, x)
    bound.bind_output(sink.name)
    found: dict[str, Callable[[], object]] = {
        title: partial(each.run, None, {source.name: x}) for title, each in made.items()
    }
    return {**found, "io binding": partial(made["defaults"].run_with_iobinding, bound)}


def compare(name: str, calls: dict[str, Callable[[], object]]) -> None:
    """Print a row for each."""
    taken: dict[str, list[float]] = {title: [] for title in calls}
    for _ in range(ROUNDS):
        for title, call in calls.items():
            taken[title].append(statistics.median(repeat(call, RUNS)))
    print(name)
    for title, times in taken.items():
        ratio = statistics.median(a / b for a, b in zip(taken["defaults"], times, strict=True))
        print(f"    {title:<20} {statistics.median(times):7.3f} ms {ratio:6.3f}")


if __name__ == "__main__":
    main()
