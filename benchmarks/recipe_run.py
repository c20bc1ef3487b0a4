"""Run a recipe from scratch, then again unchanged: seconds of each stage, peak memory, accuracy, agreement, latency.

Usage::

    python benchmarks/recipe_run.py digits
    python benchmarks/recipe_run.py trashnet new-folder   # keep the run
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> None:
    recipe = sys.argv[1]
    with tempfile.TemporaryDirectory() as temporary:
        folder = sys.argv[2] if len(sys.argv) > 2 else temporary
        first = _timed(recipe, folder)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (1 << 20)
        again = _timed(recipe, folder)
        report = json.loads((Path(folder) / "10-report" / "report.json").read_text())
    stages = ", ".join(f"{stage['name']} {stage['seconds']:.1f}" for stage in report["stages"])
    print(f"{recipe}: {first:.0f} s ({stages}); unchanged: {again:.2f} s; peak memory of one process {peak:.2f} GiB")
    latency = {(row["artifact"], row["engine"]): row["p50_ms"] for row in report["latency"] if row["threads"] == 1}
    for row in report["accuracy"]:
        print(_line(row, latency.get((row["artifact"], row["engine"]))))
    for verdict in report["verdict"]:
        print(f"{verdict['device']}: {verdict['reason']}")


def _timed(recipe: str, folder: str) -> float:
    start = time.perf_counter()
    command = [sys.executable, "-m", "edgekit", "run", recipe, "--out", folder, "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def _line(row: dict[str, Any], p50: float | None) -> str:
    text = (
        f"  {row['artifact']:<12} {row['engine']:<12} top-1 {row['top1']:.2%}, agrees with fp32 {row['agreement']:.2%}"
    )
    if row["max_steps"] is not None:
        text += f", at most {row['max_steps']:.0f} steps from torch int8"
    return text + (f", p50 {p50:.3g} ms" if p50 else "")


if __name__ == "__main__":
    main()
