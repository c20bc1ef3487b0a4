"""Commands on a phone through ``adb shell``; they need only Android's own shell there."""

from __future__ import annotations

import os
import re
import select
import shlex
import shutil
import subprocess
from time import monotonic

from edgekit.errors import InputError

SHORT = 30.0
"""Seconds for a quick command."""
MOST = 4 << 20
"""Bytes that a command may print."""
_END = re.compile(r"^edgekit: exit (\d+)\r?\n\Z", re.MULTILINE)


class Lost(Exception):
    """The connection to the phone ended; one line says why. A retry may succeed."""


class Hung(Exception):
    """The command did not finish in time, and was killed."""


def adb(serial: str | None) -> list[str]:
    """The first words of an adb command.

    Raises:
        InputError: adb is not installed on this machine.
    """
    if shutil.which("adb") is None:
        raise InputError('reach.by = "adb" needs adb: apt-get install adb')
    return ["adb", *(["-s", serial] if serial else [])]


def trouble(said: str) -> str:
    """What adb itself reports as wrong, with the next move."""
    lines = [" ".join(line.split()) for line in said.splitlines() if line.strip()]
    text = "; ".join(line for line in lines if not line.startswith("* daemon"))[-300:]
    text = "".join(c if c.isprintable() else "?" for c in text)
    if "unauthorized" in text:
        return "the phone does not trust this machine: unlock the phone and allow USB debugging"
    if any(word in text for word in ("no devices", "not found", "offline")):
        return f"{text}: connect the phone and enable USB debugging (Settings, Developer options)"
    return text or "the connection ended"


def run(serial: str | None, argv: list[str], timeout: float) -> tuple[int, str]:
    """Run a program on the phone; if this process ends, so does the program.

    Args:
        serial: serial number of the phone; None: the only one.
        argv: the program and its arguments, passed literally.
        timeout: seconds.

    Returns:
        Its exit status (128 + n for signal n), and everything that it printed.

    Raises:
        Hung: the time is up, or it prints without end.
        Lost: the connection ended.
    """
    # The shell's stdin closes with our side of the connection, so nothing is left running on the phone. (SIGKILL,
    # because mksh, Android's shell, may lose other signals to a process that it has just forked.)
    line = (
        f"exec 3<&0; {shlex.join(argv)} </dev/null 3<&- 2>&1 & P=$!; "
        "{ read -r X <&3; kill -9 $P; } >/dev/null 2>&1 & W=$!; "
        'wait $P; S=$?; kill -9 $W >/dev/null 2>&1; echo; echo "edgekit: exit $S"'
    )
    return _ended(shell(serial, line, timeout))


def script(serial: str | None, text: str, timeout: float = SHORT) -> tuple[int, str]:
    """Run lines of shell on the phone; see `run`."""
    return _ended(shell(serial, f'{{ {text}\n}} </dev/null 2>&1; S=$?; echo; echo "edgekit: exit $S"', timeout))


def shell(serial: str | None, line: str, timeout: float) -> str:
    """Run a line in the phone's shell, and return everything that it and adb print."""
    command = [*adb(serial), "shell", "-T", line]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdin is not None
    assert process.stdout is not None
    said, end = bytearray(), monotonic() + timeout
    try:
        while True:
            left = end - monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                raise Hung(f"it did not end within {timeout:.0f} s")
            block = os.read(process.stdout.fileno(), 1 << 16)
            if not block or _END.search((said[-64:] + block).decode(errors="replace")):
                said += block
                return said.decode(errors="replace").replace("\r\n", "\n")
            said += block
            if len(said) > MOST:
                raise Hung("it prints without end")
    finally:
        process.stdin.close()
        try:
            process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _ended(said: str) -> tuple[int, str]:
    match = _END.search(said)
    if match is None:
        raise Lost(trouble(said))
    return int(match[1]), said[: match.start()]
