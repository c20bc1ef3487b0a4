"""Locks that the kernel frees when their holder dies, whatever killed it. Standard library only."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import IO


def take(path: Path) -> IO[bytes] | None:
    """Hold a lock until the file is closed; None if another process holds it.

    Args:
        path: of the lock file, created if it does not exist.
    """
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Wait until nobody else has it, and hold it."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def shared(path: Path) -> Iterator[None]:
    """Wait until nobody has it for himself, and keep it from those who want that; others may share it."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield
