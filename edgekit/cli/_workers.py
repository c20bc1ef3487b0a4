"""More workers of a search or a sweep: the same command in processes of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from edgekit.console import Console
from edgekit.train.launch import INTERRUPTED, uninterrupted


@contextmanager
def helpers(words: Sequence[str], count: int, out: Path, console: Console) -> Iterator[None]:
    """Start them, and wait for their ends; an error here, Ctrl-C or SIGTERM ends them.

    Args:
        words: the command, after ``edgekit``.
        count: how many.
        out: folder of the search; what worker n says goes to ``worker-<n>.log`` there. This process is the first one.
        console: told of those that end with an error.
    """
    with ExitStack() as logs:
        started: list[subprocess.Popen[bytes]] = []
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # they would outlive this process
        try:
            for number in range(2, count + 2):
                log = logs.enter_context((out / f"worker-{number}.log").open("wb"))
                command = [sys.executable, "-m", "edgekit", *words]
                with uninterrupted():
                    started.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
            yield
            for process in started:
                process.wait()
        except BaseException:
            for process in started:
                process.terminate()
            raise
        finally:
            for number, process in enumerate(started, start=2):
                if (code := process.wait()) > 0 and code != INTERRUPTED:
                    log_file = out / f"worker-{number}.log"
                    console.say(f"{words[0]}: worker {number} ended with exit code {code}: see {log_file}")
            signal.signal(signal.SIGTERM, before)
