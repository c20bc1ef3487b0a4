"""Memory that is kept while a network trains: torch allocates the same blocks in each step."""

from __future__ import annotations

import ctypes
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edgekit.train import memory
from tests.support import environment

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc's mallopt"
)
MEBIBYTES = 48
PAGES = (MEBIBYTES << 20) // resource.getpagesize()


def test_blocks_are_cleared_once_while_kept_and_given_back_afterwards() -> None:
    """The kernel's own counts are the oracle: pages that had to be brought in, and pages that the process holds."""
    with memory.kept():
        for _ in range(20):  # the block moves about in the heap at first
            fill()
        before = faults()
        for _ in range(5):
            fill()
        assert faults() - before < PAGES / 10
        held = resident()
    assert held - resident() > 0.9 * PAGES


def test_an_error_gives_the_memory_back_too() -> None:
    """In a process of its own: in the heap that other tests leave behind, the block may fill a hole."""
    code = "from tests.test_memory import given_back; print(given_back())"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert int(done.stdout) > 0.9 * PAGES


def given_back() -> int:
    """Pages that the process no longer holds after the error."""
    try:
        fail()
    except KeyError as raised:
        return int(raised.args[0]) - resident()
    raise AssertionError


def fail() -> None:
    """Raise the pages that the process holds once a block was freed."""
    with memory.kept():
        fill()
        raise KeyError(resident())


def fill() -> None:
    """Allocate, write and free a block."""
    torch.ones(MEBIBYTES << 18)


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1])
