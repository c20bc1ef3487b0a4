"""torchrun as it is, but SIGTERM ends it without a traceback, and it ignores SIGINT. Run as a program."""

from __future__ import annotations

import logging
import signal
import sys

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
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
