"""torchrun as it is, but SIGTERM ends it without a traceback, and it ignores SIGINT. Run as a program."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path

from edgekit.train.launch import INTERRUPTED


def main() -> None:
    """Run it with the words of the command line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # also in the processes; until here it is blocked
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing import SignalException

    def end(*_: object) -> None:
        logging.disable()
        raise SignalException("told to end", signal.SIGTERM)  # torchrun then tells the processes

    signal.signal(signal.SIGTERM, end)
    try:
        run.main()
    except SignalException:
        for child in _children():  # one that was just being started is not known to torchrun
            os.kill(child, signal.SIGKILL)
        sys.exit(INTERRUPTED)


def _children() -> list[int]:
    """The processes that this one has started and not waited for; Linux lists them."""
    listed = Path(f"/proc/self/task/{os.getpid()}/children")
    return list(map(int, listed.read_text().split())) if listed.is_file() else []


if __name__ == "__main__":
    main()
