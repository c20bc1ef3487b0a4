"""What each epoch was like, for people who watch: ``training.csv``, and the loggers that the recipe names."""

from __future__ import annotations

import csv
import io
import resource
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch

from edgekit import choices
from edgekit.disk.atomic import write_bytes
from edgekit.train.epoch import Done
from edgekit.train.loader import SHORT, Pace
from edgekit.train.port import Log
from edgekit.types import Epoch

FILE = "training.csv"
COLUMNS = (
    "epoch", "phase", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds",
    "images_per_second", "image_wait", "workers", "gradient_norm", "cores_busy", "rss_mb", "gpu_mb",
)  # fmt: skip
"""`image_wait` is a share of the time; `rss_mb` and `gpu_mb` are the most so far."""
WAITING = 0.1
"""Share of the time spent waiting for images above which something is to be done about it."""


class Record:
    """Writes one run's epochs.

    Args:
        folder: existing folder of the run.
        loggers: modules of edgekit/train/loggers.
        settings: of the run, for the loggers.

    Raises:
        MissingPackage: a logger's package is not installed.
        InputError: a logger cannot be used.
    """

    def __init__(self, folder: Path, loggers: Sequence[str], settings: dict[str, Any]) -> None:
        self._file = folder / FILE
        with redirect_stdout(sys.stderr):  # what their packages print is no part of edgekit's output
            self._loggers: list[Log] = [
                choices.pick("edgekit.train.loggers", name, "train.loggers").start(folder, settings) for name in loggers
            ]
        self._rows: list[dict[str, Any]] = []
        self._advised = False
        self._cpu, self._clock = time.process_time(), time.monotonic()

    def resume(self, history: Sequence[Epoch]) -> None:
        """Go on after the epochs of an earlier process, whose last row may be missing."""
        kept: list[dict[str, Any]] = []
        if self._file.is_file():
            with self._file.open(encoding="utf-8", newline="") as file:
                kept = list(csv.DictReader(file))[: len(history)]
        self._rows = kept + [_scores(epoch) for epoch in history[len(kept) :]]

    def add(self, epoch: Epoch, done: Done | None = None, pace: Pace | None = None) -> str:
        """Write an epoch.

        Args:
            epoch: its scores.
            done: how its training went; None for the head alone.
            pace: how fast it was.

        Returns:
            Once, what could be done about its speed, in words; else empty.
        """
        cpu, clock = time.process_time(), time.monotonic()
        row = _scores(epoch) | {
            "images_per_second": pace and round(pace.rate, 2),
            "image_wait": pace and round(pace.wait, 4),
            "workers": pace and pace.workers,
            "gradient_norm": done and done.gradient,
            "cores_busy": round((cpu - self._cpu) / max(clock - self._clock, 1e-9), 2),
            "rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            "gpu_mb": round(torch.cuda.max_memory_allocated() / 2**20, 1) if torch.cuda.is_available() else None,
        }
        self._cpu, self._clock = cpu, clock
        self._rows.append(row)
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(self._rows)
        write_bytes(self._file, text.getvalue().encode())
        numbers = {name: float(value) for name, value in row.items() if isinstance(value, int | float)}
        with redirect_stdout(sys.stderr):
            for logger in self._loggers:
                logger.log(epoch.epoch, numbers)
        if self._advised or pace is None or pace.wait < WAITING or pace.seconds < SHORT:
            return ""
        self._advised = True
        return (
            f"{pace.wait:.0%} of the time was spent waiting for images ({pace.rate:.0f} images/s): "
            "smaller files, or fewer kinds of train.augment, would be faster"
        )

    def close(self) -> None:
        """Finish the loggers."""
        with redirect_stdout(sys.stderr):
            for logger in self._loggers:
                logger.close()


def _scores(epoch: Epoch) -> dict[str, Any]:
    return {name: getattr(epoch, name) for name in COLUMNS[:8]}
