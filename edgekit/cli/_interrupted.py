"""How a command ends after Ctrl-C. Standard library only, as that may come while anything else is being imported."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from edgekit.train.launch import ENDING, INTERRUPTED


def stop() -> NoReturn:
    """Say so in one line, unless this is one of several processes: the one that started them does."""
    if ENDING not in os.environ:
        print("edgekit: interrupted; run the same command again to resume", file=sys.stderr)
    sys.exit(INTERRUPTED)
