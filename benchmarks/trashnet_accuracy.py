"""Test top-1 of TrashNet's MobileNetV2 at 160 px, trained longer than by the recipe, with batch norms and Mixup.

The settings were chosen by validation accuracy at 96 px, where `edgekit train trashnet --set data.input=96 --set
train.epochs=18 --set ...` compares others in minutes.

Usage::

    python benchmarks/trashnet_accuracy.py folder
    python benchmarks/trashnet_accuracy.py folder --seeds 0 1 2      # of the training; the split stays
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from edgekit import checkpoint_file
from edgekit.disk.run_directory import RunDirectory

SETTINGS = ("train.epochs=30", "train.lr=1.5e-3", "train.batch_norm=train", "train.mixup=0.2")
TOP1, MINUTES = 0.9, 20.0
"""Bars, on two cores."""


def main() -> None:
    """Train, and print a row for each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    flags = parser.parse_args()
    for seed in flags.seeds:
        home = flags.folder / f"seed-{seed}"
        changes = [word for change in (*SETTINGS, f"train.seed={seed}") for word in ("--set", change)]
        command = [sys.executable, "-m", "edgekit", "train", "trashnet", "--out", str(home), *changes]
        began = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        minutes = (time.monotonic() - began) / 60
        metrics = checkpoint_file.load(RunDirectory(home).folder("train")).metrics
        test = next(each for each in metrics if each.split == "test")
        low, high = test.intervals["accuracy"]
        print(
            f"seed {seed}: test top-1 {test.accuracy:.2%} ({low:.1%} to {high:.1%}, {test.images} images)"
            f"{held(test.accuracy >= TOP1)}, {minutes:.1f} min{held(minutes <= MINUTES)}",
            flush=True,
        )


def held(yes: bool) -> str:
    return "" if yes else "  MISSED"


if __name__ == "__main__":
    main()
