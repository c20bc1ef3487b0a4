"""TrashNet's MobileNetV2 at half the multiply-adds, against the unpruned one.

Accuracy of int8 against the unpruned float net; speed of int8 against the unpruned int8 files, interleaved in one
run, one thread. Both runs stay in the folder, and finished stages are reused.

Usage::

    python benchmarks/prune_trashnet.py folder
    python benchmarks/prune_trashnet.py folder prune.recover=12 prune.macs=0.45
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from edgekit.config import shipped
from edgekit.console import Console
from edgekit.device import file as device_file
from edgekit.disk import json_file
from edgekit.search import trial_files
from edgekit.types import Pruning

RECIPE = "trashnet"
PRUNE = ("prune.macs=0.5", "prune.round_to=16", "prune.recover=20")
MAX_DROP, MIN_SPEEDUP = 1.5, 1.6
SECONDS = 10.0


def main() -> None:
    folder, changes = Path(sys.argv[1]), (*PRUNE, *sys.argv[2:])
    whole, pruned = folder / "unpruned", folder / "pruned"
    _run(whole)
    for stage in ("1-data", "2-train"):  # the same network: it is trained once
        if not (pruned / stage).exists():
            shutil.copytree(whole / stage, pruned / stage)
    _run(pruned, *(word for change in changes for word in ("--set", change)))
    reports = {run.name: json.loads((run / "10-report" / "report.json").read_text()) for run in (whole, pruned)}
    print(_decision(json_file.load(pruned / "3-prune" / "pruning.json", Pruning)))
    (reference,) = (row["top1"] for row in reports["unpruned"]["accuracy"] if row["artifact"] == "torch-fp32")
    for name, report in reports.items():
        for row in report["accuracy"]:
            drop = 100 * (reference - row["top1"])
            held = "" if name == "unpruned" or "int8" not in row["artifact"] else _held(drop <= MAX_DROP)
            print(f"  {name:<9} {row['artifact']:<12} {row['engine']:<12} top-1 {row['top1']:.2%} ({-drop:+.2f}){held}")
    for line in _speed(whole, pruned):
        print(line)


def _run(folder: Path, *words: str) -> None:
    command = [sys.executable, "-m", "edgekit", "run", RECIPE, "--out", str(folder), *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _decision(pruning: Pruning) -> str:
    (parameters, fewer), (macs, less) = pruning.parameters, pruning.macs
    return (
        f"{pruning.target}, {pruning.score}: {less / macs:.1%} of the multiply-adds, {fewer / parameters:.1%} of the "
        f"parameters; validation top-1 unpruned, pruned, recovered: {[_percent(share) for share in pruning.accuracy]}"
    )


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{share:.2%}"


def _speed(whole: Path, pruned: Path) -> list[str]:
    host = device_file.load(shipped.find("devices", "host"))
    lines = []
    for form in ("onnx", "tflite"):
        files = {
            f"{run.name} {precision}": run / "6-export" / f"model-{precision}.{form}"
            for run in (whole, pruned)
            for precision in ("fp32", "int8")
        }
        found: dict[str, Any] = {}
        for trial in trial_files.time_files(files, {"host": host}, Console(quiet=True), SECONDS).rows:
            found.setdefault(trial.engine, {})[trial.file] = trial.ms
        for engine, ms in found.items():
            for precision in ("fp32", "int8"):
                before, after = ms[f"unpruned {precision}"], ms[f"pruned {precision}"]
                held = _held(before / after >= MIN_SPEEDUP) if precision == "int8" else ""
                lines.append(f"  {engine:<12} {precision} {before:.3f} -> {after:.3f} ms: {before / after:.2f}x{held}")
    return lines


def _held(holds: bool) -> str:
    return "  ok" if holds else "  BELOW THE BAR"


if __name__ == "__main__":
    main()
