"""This machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekit.device.file import Device

_ROOT = Path(__file__).parents[3]


def start(argv: Sequence[str], device: Device) -> subprocess.Popen[str]:
    """Start Python on the device, with ``edgekit.runtime`` importable.

    Every module of ``edgekit/reach/ways`` has this function; the caller speaks to the process line by line.

    Args:
        argv: what follows the interpreter, e.g. ``["-m", "edgekit.runtime.bench"]``.
        device: how to reach it.

    Returns:
        The process, its stdin, stdout and stderr piped as UTF-8 text. The caller ends it.
    """
    path = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONSAFEPATH": "1",  # a numpy.py in the user's folder is not NumPy
        "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime's: a thread beside what is measured
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


def send(file: Path, device: Device) -> str:
    """The file is here already: its absolute path."""
    return str(file.resolve())


def clean(device: Device) -> None:
    """Nothing was sent, so nothing is left."""
