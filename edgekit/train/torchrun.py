"""torchrun as it is, but for Ctrl-C, which ends it without a traceback. Run as a program."""

from __future__ import annotations

import logging
import signal
import sys

from edgekit.train.launch import INTERRUPTED


def main() -> None:
    """Run it with the words of the command line."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while torch is being imported, which may swallow an exception
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing import SignalException

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal and `launch` may both say so
        logging.disable()
        raise SignalException("interrupted", signal.SIGINT)  # torchrun then interrupts the processes

    signal.signal(signal.SIGINT, interrupt)
    try:
        run.main()
    except SignalException:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
