"""What every way to reach a device provides, and what it needs to know about a device."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

from edgekit import choices
from edgekit.measurements import Kind


class Settings(Protocol):
    """How commands get to a device: its [reach] section. Each way uses some of it."""

    @property
    def by(self) -> str:
        """A module of ``edgekit/reach/ways``."""

    @property
    def host(self) -> str | None:
        """ssh: [user@]host; adb: serial number, None: the only phone."""

    @property
    def port(self) -> int | None:
        """Port for ssh; None: what its config says."""

    @property
    def config(self) -> str | None:
        """ssh: path of a client config to use instead of ~/.ssh/config."""

    @property
    def python(self) -> str:
        """Python 3.9 or later on the device."""

    @property
    def timeout(self) -> float:
        """Seconds to wait for a connection."""

    @property
    def cpu(self) -> str | None:
        """qemu: a key of `edgekit.reach.sysroot.CORES`."""

    @property
    def benchmark(self) -> str | None:
        """adb: the program benchmark_model or executor_runner, here or on the phone, instead of Python."""

    @property
    def flags(self) -> Sequence[str]:
        """More flags of that program."""


class Work(Protocol):
    """What a device is to run: the part of its [run] section that a way uses."""

    @property
    def engines(self) -> Sequence[str]:
        """Names of engines, at least one."""

    @property
    def allow_fallback(self) -> bool:
        """Whether the CPU may run what an engine's provider does not support."""


class Target(Protocol):
    """A device, as far as a way needs it; `edgekit.device.file.Device` is one."""

    @property
    def name(self) -> str:
        """Used in messages."""

    @property
    def reach(self) -> Settings:
        """How to get there."""

    @property
    def run(self) -> Work:
        """What to run there."""


class Reach(Protocol):
    """A module of ``edgekit/reach/ways``."""

    KIND: Kind
    """Kind of the times in a profile: "measured" by a clock, or "estimated" if the device is emulated."""

    def start(self, argv: Sequence[str], device: Target) -> subprocess.Popen[str]:
        """Start Python on the device, with ``edgekit.runtime`` importable; the caller talks to it line by line.

        Args:
            argv: what follows the interpreter, e.g. ``["-m", "edgekit.runtime.bench"]``.
            device: how to reach it.

        Returns:
            The process, with stdin, stdout and stderr piped as UTF-8 text. The caller ends it.

        Raises:
            InputError: a program that this way needs is not installed here, or the device file lacks a key.
            Shortfall: the device cannot be reached or used; the message says why and what to do.
        """

    def send(self, file: Path, device: Target) -> str:
        """Send a file to the device unless it is already there.

        Returns:
            Its absolute path on the device.

        Raises:
            Shortfall: the device cannot be reached, or (`edgekit.reach.remote.Refused`) has no room for it.
        """

    def clean(self, device: Target) -> None:
        """Remove every file that was sent to the device.

        Raises:
            Shortfall: the device cannot be reached.
        """

    def explain(self, status: int, said: Sequence[str], device: Target) -> str:
        """Why a process from `start` has ended, in one line.

        Args:
            status: its exit status, as `subprocess` reports it.
            said: its last lines on stderr, without blank ones.
            device: where it ran.
        """


def way(name: str, where: str = "reach.by") -> Reach:
    """The module of ``edgekit/reach/ways`` with that name.

    Args:
        name: the word in a device file.
        where: the key that holds the word, for the message.

    Raises:
        InputError: there is no such way.
    """
    return cast(Reach, choices.pick("edgekit.reach.ways", name, where))
