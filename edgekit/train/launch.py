"""Starts a command in several processes through torchrun, and keeps the exit code of the first one. No torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

RESTARTS = 3
"""How often all processes are started again after one died; each time they go on from the last epoch."""
GRACE = 10.0
"""Seconds that the others have to end when the first process has fallen short."""
ENDING = "EDGEKIT_ENDING"
"""Environment variable: the file in which the first process leaves its exit code, as one that exits with another than 0
would be started again."""


def launched() -> bool:
    """Whether torchrun started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def processes(count: int, words: Sequence[str]) -> int:
    """Run ``edgekit`` with some words in several processes on this machine.

    Args:
        count: how many; each has its share of the cores.
        words: of the command line, without the program's name.

    Returns:
        The exit code of the first one.
    """
    threads = max(len(os.sched_getaffinity(0)) // count, 1)
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    with tempfile.TemporaryDirectory() as folder:
        ending = Path(folder) / "code"
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ, ENDING: str(ending)}
        command = [*run, "--max-restarts", str(RESTARTS), "-m", "edgekit", *words]
        with subprocess.Popen(command, env=environment) as started:
            while started.poll() is None:
                time.sleep(0.2)
                if ending.is_file() and ending.read_text() not in ("", "0"):
                    _stop(started, [int(path.read_text()) for path in ending.parent.glob("rank-*")])
        return int(ending.read_text()) if ending.is_file() else started.returncode


def _stop(started: subprocess.Popen[bytes], ranks: Sequence[int]) -> None:
    """End all processes; one that hangs would never do so, and torchrun would wait for it."""
    try:
        started.wait(GRACE)
    except subprocess.TimeoutExpired:
        started.kill()
        for rank in ranks:
            with suppress(ProcessLookupError):
                os.kill(rank, signal.SIGKILL)


def enrol(rank: int) -> None:
    """Tell `processes` which process has a rank."""
    if ENDING in os.environ:
        Path(os.environ[ENDING]).with_name(f"rank-{rank}").write_text(str(os.getpid()))


def leave(code: int) -> int:
    """Leave the first process's exit code for `processes`; returns the one to exit with."""
    if ENDING not in os.environ:
        return code
    Path(os.environ[ENDING]).write_text(str(code))
    return 0
