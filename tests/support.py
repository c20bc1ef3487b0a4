"""What the tests of the command line share: how to call it, and a run that is over in seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from edgekit.disk.run_directory import ORDER
from tests import warm

ROOT = warm.ROOT
DEVICE = """
name = "quick"
[run]
engines = ["litert", "onnxruntime"]
seconds = 0.02
warmup = 1
rounds = 1
"""
TINY = (
    "digits",
    "--set", "model.options.inverted_residual_setting=[[1, 8, 1, 1], [4, 16, 1, 2]]",
    "--set", "data.input=16",
    "--set", "train.epochs=2",
    "--set", "train.batch=16",
    "--set", "quantize.calibration=16",
    "--set", "lower.measure=false",  # the choice would hang on the clock, and the files on the choice
)  # fmt: skip
"""The shipped recipe, cut down; add ``--device`` with the file of `DEVICE`."""
FILES = (
    "2-train/model.safetensors",
    *(f"6-export/model-{p}.{s}" for p in ("fp32", "int8") for s in ("onnx", "tflite")),
)
BUNDLE = "8-bundle/digits.edgekit"
HEAVY = ("run", "train", "prune", "compress", "profile")
"""Commands that train, convert or verify."""
STAGES = tuple(name for name in ORDER if name not in ("prune", "lower"))
"""What that run does."""
FOLDERS = [f"{number}-{name}" for number, name in enumerate(ORDER, 1) if name in STAGES]


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "edgekit", *map(str, words)]


def environment(**extra: str) -> dict[str, str]:
    """For a process of its own, one thread, with the package from this checkout."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **extra}


def edgekit(
    *words: str | Path, code: int = 0, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own and check how it ends.

    Where it would import torch first, it is forked from one that has (`tests.warm`), unless it has an `env` of its own.
    """
    if env is None and words and words[0] in HEAVY:
        answer = warm.run(command(*words)[1:], environment(), cwd)
    else:
        answer = subprocess.run(
            command(*words), cwd=cwd, env=environment(**(env or {})), capture_output=True, text=True
        )
    assert answer.returncode == code, answer.stderr
    return answer


def complaint(*words: str | Path, code: int, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """The one line that a failing command ends with; progress before it is fine, a traceback is not."""
    answer = edgekit(*words, code=code, cwd=cwd, env=env)
    assert answer.stdout == ""
    assert "Traceback" not in answer.stderr
    *progress, last = answer.stderr.splitlines()
    assert not any("edgekit:" in line for line in progress)
    assert last.startswith("edgekit: ")
    return last.removeprefix("edgekit: ")
