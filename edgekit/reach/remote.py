"""What `ssh` and `adb` share: the agent on the device, and files named by their hash."""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import queue
import re
import select
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

from edgekit.errors import Shortfall
from edgekit.reach import runtime_zip

_AGENT = (Path(__file__).with_name("_agent.py")).read_text(encoding="utf-8")
ANSWER = 60.0
"""Seconds to wait for a short answer, or for a transfer to make any progress."""
SUFFIX = re.compile(r"(\.[a-z0-9]{1,12})?")


class Broken(Exception):
    """The connection ended or stalled; one line says why. A retry may succeed."""


def agent(python: str, *words: str) -> str:
    """The call of the agent as a line for the device's shell, every word quoted."""
    home = ""
    if python.startswith("~/"):
        python, home = python[1:], '"$HOME"'
    return home + shlex.join([python, "-c", _AGENT, *words])


class Refused(Shortfall):
    """The device can be reached but cannot store a file, usually for lack of space."""


class Call:
    """A process that takes bytes and answers in lines of JSON; `close` ends it."""

    def __init__(self, argv: Sequence[str], explain: Callable[[int, Sequence[str]], str]) -> None:
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._explain = explain
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._said: deque[bytes] = deque(maxlen=50)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._readers = (
            threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True),
            threading.Thread(target=self._said.extend, args=(self.process.stderr,), daemon=True),
        )
        for reader in self._readers:
            reader.start()

    def answer(self, timeout: float = ANSWER) -> dict[str, Any]:
        """The next line.

        Raises:
            Shortfall: the device reports an error, or its answer is not understood.
            Broken: the process has ended, or `timeout` (seconds) has passed.
        """
        try:
            said = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise Broken(f"no answer within {timeout:.0f} s") from None
        if said is None:
            raise Broken(self.obituary())
        try:
            answer = json.loads(said)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            text = said.decode(errors="replace").strip()[:80]
            raise Shortfall(f"it answered {text!r}, which is not JSON (does a start-up file of its shell print?)")
        if "error" in answer:
            raise Shortfall(str(answer["error"]))
        return answer

    def write(self, data: IO[bytes]) -> None:
        """Write the rest of a file to the process.

        Raises:
            Broken: the process has ended, or has accepted nothing for `ANSWER` seconds.
        """
        assert self.process.stdin is not None
        pipe = self.process.stdin.fileno()
        os.set_blocking(pipe, False)
        while block := data.read(1 << 18):
            rest = memoryview(block)
            while rest:
                if not select.select([], [pipe], [], ANSWER)[1]:
                    raise Broken(f"no data was accepted for {ANSWER:.0f} s")
                try:
                    rest = rest[os.write(pipe, rest) :]
                except BlockingIOError:
                    continue
                except BrokenPipeError:
                    return  # the answer says why

    def obituary(self) -> str:
        """Why the process has ended."""
        try:
            status = self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "it closed its output"
        for reader in self._readers:
            reader.join(timeout=5)
        return self._explain(status, [said.decode(errors="replace").strip() for said in self._said])

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.kill()
        self.process.wait()
        with suppress(BrokenPipeError):
            self.process.stdin.close()  # what it started sees the end too
        for reader in self._readers:
            reader.join(timeout=5)
        self.process.stdout.close()
        self.process.stderr.close()

    def _read(self, stdout: IO[bytes]) -> None:
        for said in stdout:
            self._lines.put(said)
        self._lines.put(None)


def receive(open_call: Callable[[Sequence[str]], Call], file: Path) -> str:
    """Send a file to the device, except for what is already there.

    Args:
        open_call: starts the agent with the given words.
        file: what to send.

    Returns:
        Its path on the device.

    Raises:
        Refused: the device has no room for it.
        Broken: the connection ended; another call resumes where this one stopped.
    """
    with file.open("rb") as data:
        digest = hashlib.file_digest(data, "sha256").hexdigest()
        size = data.tell()
        suffix = file.suffix if SUFFIX.fullmatch(file.suffix) else ""
        call = open_call(("receive", digest, suffix, str(size)))
        try:
            data.seek(call.answer()["have"])
            call.write(data)
            return str(call.answer()["path"])
        except Shortfall as trouble:
            raise Refused(f"{file.name} ({size / 1e6:.1f} MB) cannot be sent: {trouble}") from None
        finally:
            call.close()


def obituary(status: int, said: Sequence[str], python: str) -> str:
    """What a remote shell's exit status and its last lines mean."""
    last = next((text for text in reversed(said) if text), "")
    if status in (126, 127):
        return (
            f'there is no usable "{python}" ({last}): install Python 3.9 or later on it '
            "(apt-get install python3), or set reach.python"
        )
    return f"it ended with status {status}" + (f": {last}" if last else "")


@cache
def runtime() -> Path:
    """``edgekit.runtime`` as a zip that Python imports (`edgekit.reach.runtime_zip`), kept until this process exits."""
    folder = Path(tempfile.mkdtemp(prefix="edgekit-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "runtime.zip"
    path.write_bytes(runtime_zip.build())
    return path
