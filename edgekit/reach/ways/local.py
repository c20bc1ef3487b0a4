"""This machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from edgekit.measurements import Kind
from edgekit.reach import worker
from edgekit.reach.port import Target

KIND: Kind = "measured"
_ROOT = Path(__file__).parents[3]


def start(argv: Sequence[str], device: Target) -> subprocess.Popen[str]:
    """Start Python here; see `edgekit.reach.port.Reach.start`."""
    path = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONSAFEPATH": "1",  # do not import a numpy.py in the user's folder
        "ORT_DISABLE_TELEMETRY": "1",  # of ONNX Runtime: an extra thread would disturb measurements
    }
    return subprocess.Popen(
        [sys.executable, *argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        encoding="utf-8",
        errors="replace",
    )


def send(file: Path, device: Target) -> str:
    """Return the absolute path: the file is on this machine already."""
    return str(file.resolve())


def clean(device: Target) -> None:
    """Do nothing: no files were sent."""


def explain(status: int, said: Sequence[str], device: Target) -> str:
    """Why a process ended, from its exit status or signal and its last lines."""
    return worker.ended(status, said)
