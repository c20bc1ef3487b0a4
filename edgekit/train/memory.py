"""Memory in training: what stays with the process, and the batch that a GPU has room for.

glibc gives each large block back to the system when it is freed, and each step asks for the same blocks again, whose
pages the system then clears anew. See "Tunable Parameters" (`mallopt`) in the GNU C Library's manual.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, MMAP_MAX = -1, -2, -3, -4
"""Parameters of ``mallopt``, from ``malloc.h``."""
TRAINING = {MMAP_MAX: 0, TRIM_THRESHOLD: 2**31 - 1, TOP_PAD: 64 << 20}
"""No block of its own from the system, and none given back."""
AFTERWARDS = {MMAP_MAX: 65536, MMAP_THRESHOLD: 32 << 20, TRIM_THRESHOLD: 64 << 20, TOP_PAD: 128 << 10}
"""What glibc arrives at by itself in a program that frees large blocks."""


@contextmanager
def kept() -> Iterator[None]:
    """Keep freed memory for the next step, and give it back at the end; does nothing where there is no glibc."""
    library: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(library, "mallopt"):
        yield
        return
    for parameter, value in TRAINING.items():
        library.mallopt(parameter, value)
    try:
        yield
    finally:
        for parameter, value in AFTERWARDS.items():
            library.mallopt(parameter, value)
        library.malloc_trim(0)


def part(batch: int, least: int, fits: Callable[[int], bool]) -> int | None:
    """The first of a batch's half, quarter and so on that fits; None if not even the least images do."""
    while (batch := batch // 2) >= least:
        if fits(batch):
            return batch
    return None
