"""Climb every rung of the rescue ladder on a trained run, even after one holds: what each costs and gains.

Usage::

    edgekit run trashnet --out RUN          # or any folder with a finished train (or prune) stage
    python benchmarks/ladder.py RUN
    python benchmarks/ladder.py RUN --set quantize.qat.epochs=1 --set 'quantize.rescue=["range", "qat"]'

Accuracy is that of the exact integer graph on the validation split. Latencies come from one interleaved run.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path

from edgekit.config import recipe_file
from edgekit.console import Console
from edgekit.disk.run_directory import RunDirectory
from edgekit.pipeline.port import Skip
from edgekit.pipeline.stages import quantize
from edgekit.pipeline.state import Job, Run
from edgekit.search import ladder
from edgekit.types import Rung


def main() -> None:
    """Climb and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    options = parser.parse_args()
    loaded, base = recipe_file.resume(options.run / "recipe.json", options.set)
    run = Run(Job(loaded, base, options.run, {}), RunDirectory(options.run), Console())
    for name in ("data", "train", "prune", "lower"):
        done = run.directory.find(name)
        if done is not None:
            run.done[name] = done
    with tempfile.TemporaryDirectory() as folder:
        section = quantize.section(run)
        if isinstance(section, Skip):
            raise SystemExit(section.reason)
        material = quantize.material(run, section, Path(folder))
        began = time.perf_counter()
        climb = ladder.climb(material, section.model_copy(update={"max_drop": -math.inf}))
    print(f"{options.run}: {time.perf_counter() - began:.0f} s; {climb.note}")
    engines = tuple(dict.fromkeys(engine for rung in climb.rungs for engine in rung.latency_ms))
    print("  rung         top-1    agrees   points lost  seconds  " + "  ".join(f"{name:>19}" for name in engines))
    for rung in climb.rungs:
        print(_line(rung, engines))
    if climb.shortfall:
        print(climb.shortfall)


def _line(rung: Rung, engines: tuple[str, ...]) -> str:
    settings = rung.problem or rung.settings.replace("\n", ", ")
    if rung.accuracy is None or rung.agreement is None or rung.drop is None:
        return f"  {rung.name:<11}  {settings}"
    scores = f"{rung.accuracy:>7.2%}  {rung.agreement:>7.2%}  {rung.drop:>+11.2f}  {rung.seconds:>7.1f}"
    times = "  ".join(f"{rung.latency_ms[name]:>16.3f} ms" if name in rung.latency_ms else " " * 19 for name in engines)
    return f"{'*' if rung.chosen else ' '} {rung.name:<11} {scores}  {times}  {settings}"


if __name__ == "__main__":
    main()
