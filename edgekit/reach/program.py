"""What a program that measures on a phone without Python provides, and what all of them share; nothing is run here."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

THERE = "phone:"
"""Prefix of a path on the phone, in a device file."""
_FLAG = re.compile(r"--(\w+)=(.*)", re.DOTALL)
_SIGNALS = {4: " (illegal instruction)", 6: " (it aborted)", 9: " (out of memory?)", 11: " (it crashed)"}


class Fault(Exception):
    """It did not measure, or its output is not understood; one line says which."""


@dataclass(frozen=True)
class Ask:
    """What one run is to do."""

    model: str
    """Path on the phone."""
    threads: int
    warmup: int = 1
    """Least inferences that do not count, and in `warmup_seconds` their least time."""
    warmup_seconds: float = 0.0
    runs: int = 1
    """Least inferences that count, and in `seconds` their least time."""
    seconds: float = 0.0
    each_ms: float | None = None
    """What one inference took before; None: not yet known."""


@dataclass(frozen=True)
class Spread:
    """Statistics over the inferences of one run, in microseconds."""

    count: int
    mean: float
    min: float
    max: float
    median: float | None
    """None if this version prints none; so is `p95`."""
    p95: float | None
    warmed: bool = True
    """False: the inferences of the warm-up are among them, as this version only prints the time of all."""


@dataclass(frozen=True)
class Said:
    """What one run printed."""

    init_us: float
    first_us: float
    warmup: int
    """Number of warm-up inferences."""
    times: Spread
    footprint_mb: float | None = None
    """Growth of the tool's peak resident set in MiB; None if not printed; so is `peak_mb`."""
    peak_mb: float | None = None


class Program(Protocol):
    """A module that knows one program: what to pass, and what it prints."""

    NAME: str
    """The word in ``run.engines``."""
    FORMAT: str
    """Of the files that it runs."""
    SUFFIX: str
    """Of their names."""
    INPUT: str
    """What it feeds them."""
    WHERE: str
    """Where to get it."""
    HELP: str
    """A flag that its --help lists."""
    PEAK: tuple[str, ...]
    """Flags of a run that prints its peak memory; empty: none does."""
    FINE: float
    """Microseconds below which its medians are too coarse."""

    def checked(self, flags: Sequence[str], /) -> None:
        """Check the flags of a device file.

        Raises:
            ValueError: not ``--name=value``, or one that decides what is measured, and how.
        """

    def arguments(self, ask: Ask, /) -> list[str]:
        """Its arguments for one run."""

    def read(self, text: str, ask: Ask, /) -> Said:
        """Parse the figures that a run printed.

        Raises:
            Fault: it did something else than was asked for, or figures are missing or not plausible.
        """

    def batch(self, data: bytes, where: str, /) -> int:
        """Images in one inference of a file, from its bytes.

        Raises:
            Fault: it cannot be read; `where` is its name.
        """

    def provider(self, text: str, flags: Sequence[str], allow_fallback: bool, data: bytes, /) -> str:
        """What computed the file of these bytes, according to the output of a run.

        Raises:
            Fault: not what was asked for, and `allow_fallback` is not set.
        """

    def failure(self, status: int, text: str, binary: str, /) -> str:
        """Why a run ended with a nonzero status, in one line.

        Args:
            status: as the phone's shell reports it.
            text: everything that was printed.
            binary: the program's path.
        """


def check_flags(flags: Sequence[str], name: str, ours: Collection[str]) -> None:
    """Check that a device file's flags are ``--name=value``, and none of `ours`.

    Raises:
        ValueError: they are not; the caller adds where.
    """
    for flag in flags:
        match = _FLAG.fullmatch(flag)
        if match is None or not flag.isprintable():
            raise ValueError(f'"{flag}": write flags of {name} as "--name=value"')
        if match[1] in ours:
            raise ValueError(f"--{match[1]}: edgekit sets this itself; [run] controls how to measure")


def not_started(status: int, text: str, binary: str, where: str) -> str:
    """Why a program could not even start, in one line; empty if it did."""
    last = last_line(text)
    if any(word in text for word in ("not executable:", "Exec format error", "cannot execute binary file")):
        return f"{binary} is built for a different processor than the phone's ({last}). {where}"
    if status == 127:
        return f"there is no {binary} on the phone ({last}). {where}"
    if status == 126:
        return f"the phone cannot execute {binary} ({last}): chmod 755 it, in a folder such as /data/local/tmp"
    if "CANNOT LINK EXECUTABLE" in text:
        words = next(line.strip() for line in text.splitlines() if "CANNOT LINK EXECUTABLE" in line)
        return f"{binary} needs a library that is not on the phone: {printable(words)}"
    return ""


def ended(name: str, status: int) -> str:
    """How a program ended: by a signal, or with a status."""
    if status > 128:
        return f"{name} was killed by signal {status - 128}{_SIGNALS.get(status - 128, '')}"
    return f"{name} ended with status {status}"


def last_line(text: str) -> str:
    """The last line that is not blank, or that there is none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return printable(lines[-1]) if lines else "it printed nothing"


def printable(text: str) -> str:
    """At most 200 characters of `text`, with those that are not printable replaced."""
    return "".join(c if c.isprintable() else "?" for c in text)[:200]


def number(word: str, name: str) -> float:
    """A printed figure.

    Raises:
        Fault: not a number, negative or infinite.
    """
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise Fault(f'its figures make no sense: {name} is "{printable(word)}"')
    return value
