"""Starts a command in several processes through torchrun, and keeps the exit code of the first one. No torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from edgekit.errors import missing

PURPOSE = "training in several processes"
RESTARTS = 3
"""How often all processes are started again after one died; each time they go on from the last epoch."""
GRACE = 10.0
"""Seconds that the others have to end when the first process has fallen short."""
INTERRUPTED = 128 + signal.SIGINT
"""Exit code after Ctrl-C."""
SIGNALS = "SIGHUP,SIGQUIT"
"""What torchrun handles itself; SIGTERM is left to `edgekit.train.torchrun`, and SIGINT ignored."""
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

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; all have ended.
        MissingPackage: there is no torch.
    """
    if find_spec("torch") is None:
        raise missing(ModuleNotFoundError(name="torch"), extra="compress", purpose=PURPOSE)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the others would outlive this process
    threads = max(len(os.sched_getaffinity(0)) // count, 1)
    run = [sys.executable, "-m", "edgekit.train.torchrun", "--standalone", "--signals-to-handle", SIGNALS]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        ending = Path(folder) / "code"
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ, ENDING: str(ending)}
        counts = ["--nproc-per-node", str(count), "--max-restarts", str(RESTARTS)]
        command = [*run, *counts, "-m", "edgekit", *words]
        started = None
        try:
            with uninterrupted():
                started = _start(command, environment)
            while started.poll() is None:
                time.sleep(0.2)
                if ending.is_file() and ending.read_text() not in ("", "0"):
                    _stop(started, ending.parent)
        except KeyboardInterrupt:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            if started is not None:
                started.terminate()
                _stop(started, ending.parent)
            raise
        return int(ending.read_text()) if ending.is_file() else started.returncode


def _start(command: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start torchrun with SIGINT blocked, until it ignores it: Ctrl-C is for this process alone."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return subprocess.Popen(command, env=environment)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait for the end of a block that starts a process, which nobody would know of otherwise.

    Raises:
        KeyboardInterrupt: at the end of the block, when one of them came.
    """
    came: list[int] = []
    heard = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    before = [signal.signal(number, lambda number, _: came.append(number)) for number in heard]
    try:
        yield
    finally:
        for number, handler in zip(heard, before, strict=True):
            signal.signal(number, handler)
    if came:
        raise KeyboardInterrupt


def _stop(started: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait for all processes to end, but not for long: one that hangs would never do so."""
    try:
        started.wait(GRACE)
    except subprocess.TimeoutExpired:
        started.kill()
        for path in folder.glob("rank-*"):
            with suppress(ProcessLookupError):
                os.kill(int(path.read_text()), signal.SIGKILL)


def interruptible() -> None:
    """Let this process, one of several, be interrupted once, by SIGTERM or SIGINT: torchrun may repeat both."""
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]

    def interrupt(*_: object) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, interrupt)


def enrol(rank: int) -> None:
    """Tell `processes` that this process has a rank; if the command has ended meanwhile, end, too."""
    if ENDING in os.environ:
        try:
            Path(os.environ[ENDING]).with_name(f"rank-{rank}").write_text(str(os.getpid()))
        except FileNotFoundError:
            sys.exit(INTERRUPTED)


def leave(code: int) -> int:
    """Leave the first process's exit code for `processes`; returns the one to exit with."""
    if ENDING not in os.environ:
        return code
    Path(os.environ[ENDING]).write_text(str(code))
    return 0
