"""`edgekit fit` on TrashNet's MobileNetV2 at three budgets, against what one would do without it in the same search.

Budgets are shares of the whole int8 network's latency as the search measures it. Of each search: the p50 of what ships,
measured in a session of its own, and the share of the budget that it uses; its test top-1; the files that were timed;
and the validation top-1 of each way of choosing widths at the same milliseconds, "uniform" and "importance" (what
pruning by multiply-adds does) among them. All searches use one training of the whole network and one latency model;
every finished step is reused, so a run that was stopped goes on. It takes hours, and a quiet machine.

With --rivals, "uniform" and "importance" are also trained to the end, whether or not the search dropped them, and the
test top-1 of the float networks is compared: what ships has to be as good, and half a point better at the tightest one.

Usage::

    python benchmarks/fit_trashnet.py folder
    python benchmarks/fit_trashnet.py folder --shares 0.5 --rivals --set train.epochs=2
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

from edgekit import checkpoint_file
from edgekit.disk import json_file
from edgekit.fit.records import Result

RECIPE = "trashnet"
USED, FILES, MINUTES = 0.9, 30, 3.0
"""Bars: the share of the budget that is used, the files that are timed, and the minutes of a dry run."""
RIVALS, TIGHTEST, AHEAD = ("uniform", "importance"), 0.35, 0.005
"""What one would do without a search, and at which share of the time what ships has to be how much better."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.75, 0.5, TIGHTEST])
    parser.add_argument("--set", dest="sets", action="append", default=["prune.recover=20"])
    parser.add_argument("--rivals", action="store_true", help="train what one would do without a search to the end")
    flags = parser.parse_args()
    changes = [word for change in ("prune.macs=0.5", *flags.sets) for word in ("--set", change)]
    first = flags.folder / "dry"
    began = time.monotonic()
    whole = search(first, 1000.0, changes, "--dry-run").whole.measured[0]
    minutes = (time.monotonic() - began) / 60
    print(f"dry run: {minutes:.1f} min{held(minutes <= MINUTES)}")
    print(f"whole: {whole.ms:.3g} ms ({whole.format} in {whole.engine}, {whole.cpu})")
    home = first
    for share in flags.shares:
        folder, budget = flags.folder / f"at-{share:g}", share * whole.ms
        for stage in ("1-data", "2-train"):  # the same network: it is trained once
            if (home / "whole" / stage).exists() and not (folder / "whole" / stage).exists():
                shutil.copytree(home / "whole" / stage, folder / "whole" / stage)
        result = search(folder, budget, changes)
        row(share, budget, result)
        if flags.rivals:
            rivals(folder, result, changes, AHEAD if share <= TIGHTEST else 0.0)
        home = folder


def search(folder: Path, budget: float, changes: list[str], *words: str) -> Result:
    """The result of one search; one that falls short has a result, too."""
    command = [sys.executable, "-m", "edgekit", "fit", RECIPE, "--device", "host", "--max-ms", f"{budget:.6g}"]
    subprocess.run([*command, "--out", str(folder), *changes, *words], stdout=subprocess.DEVNULL, check=False)
    return json_file.load(folder / "fit.json", Result)


def row(share: float, budget: float, result: Result) -> None:
    print(f"\n{share:g} of the whole network: {budget:.3g} ms")
    for one in result.candidates:
        score = f"{one.accuracy:.2%}" if one.accuracy is not None else "-"
        ms = f"{one.measured[0].ms:.3g} ms" if one.measured else "-"
        print(f"  {one.id:<24} {ms:<10} val {score:<8} {'ships' if one.id == result.chosen else one.dropped}")
    for shipped in result.shipped:
        within, used = held(shipped.high <= budget), held(shipped.ms >= USED * budget)
        print(f"  ships: {shipped.ms:.3g} ms, at most {shipped.high:.3g}{within}; {shipped.ms / budget:.0%} used{used}")
    whole, now = result.top1
    if whole is not None and now is not None:
        print(f"  test top-1 {now:.2%}, the whole float network {whole:.2%}")
    spent = result.spent
    print(f"  {spent.files} files timed{held(spent.files <= FILES)}, {spent.training_seconds:.0f} s trained")


def rivals(folder: Path, result: Result, changes: list[str], ahead: float) -> None:
    """Test top-1 of the float networks: of what ships, and of others at the same milliseconds, trained as long."""
    ships = test_top1(folder / result.chosen)
    print(f"  float test top-1: {result.chosen} {ships:.2%}")
    for name in RIVALS:
        out = folder / f"rival-{name}"
        for stage in ("1-data", "2-train"):
            if not (out / stage).exists():
                shutil.copytree(folder / "whole" / stage, out / stage)
        plan = [*changes, "--set", "prune.macs=", "--set", f"prune.plan={(folder / 'plans' / name).resolve()}.json"]
        command = [sys.executable, "-m", "edgekit", "prune", RECIPE, "--out", str(out), *plan]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        other = test_top1(out)
        print(f"    {name} {other:.2%}{held(ships >= other + ahead)}")


def test_top1(run: Path) -> float:
    """Of the network that a run ends with, in float."""
    stage = run / "3-prune"
    checkpoint = checkpoint_file.load(stage if stage.exists() else run / "2-train")
    return next(score.accuracy for score in checkpoint.metrics if score.split == "test")


def held(yes: bool) -> str:
    return "" if yes else "  MISSED"


if __name__ == "__main__":
    main()
