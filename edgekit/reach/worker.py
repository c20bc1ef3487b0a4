"""The host side of the protocol of `edgekit.runtime.bench`."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import IO, Any, Self


class WorkerFault(Exception):
    """The measuring process failed, died or does not answer; one line says which.

    Args:
        message: the line.
        lost: the process or the connection to it was lost, so a retry may succeed.
    """

    def __init__(self, message: str, lost: bool = False) -> None:
        super().__init__(message)
        self.lost = lost


def ended(status: int, said: Sequence[str]) -> str:
    """What the exit status of a process on this machine and its last lines on stderr mean."""
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
    hint = " (out of memory?)" if status == -signal.SIGKILL else ""
    return f"the measuring process {how}{hint}" + (f": {said[-1]}" if said else "")


class Worker:
    """A process that answers each line of JSON with one line of JSON.

    Used as a context manager; leaving it ends the process, whatever its state.

    Args:
        process: its stdin, stdout and stderr are text pipes.
        explain: what an exit status and the last lines on stderr mean, if the process only connects to another one.
    """

    def __init__(self, process: subprocess.Popen[str], explain: Callable[[int, Sequence[str]], str] = ended) -> None:
        self._process = process
        self._explain = explain
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._chatter: deque[str] = deque(maxlen=20)
        assert process.stdout is not None
        assert process.stderr is not None
        self._readers = [
            threading.Thread(target=self._read_answers, args=(process.stdout,), daemon=True),
            threading.Thread(target=self._chatter.extend, args=(process.stderr,), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def kill(self) -> None:
        """End the process; callers waiting for an answer get a `WorkerFault`. Any thread may call this."""
        self._process.kill()

    def close(self) -> None:
        """End the process, whatever it is doing."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._process.kill()
        self._process.wait()
        with suppress(BrokenPipeError):  # a request that was never read
            self._process.stdin.close()  # what it started, perhaps on another machine, sees the end too
        for reader in self._readers:
            reader.join(timeout=5)
        self._process.stdout.close()
        self._process.stderr.close()

    def ask(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Send a request and wait for the answer.

        Args:
            request: what to send, as JSON-like data.
            timeout: seconds.

        Raises:
            WorkerFault: the process reports an error, it died, or `timeout` has passed.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerFault(self._obituary(), lost=True) from None
        return self.listen(timeout)

    def listen(self, timeout: float) -> dict[str, Any]:
        """Wait for an answer; see `ask`."""
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise WorkerFault(f"no answer from the measuring process within {timeout:.0f} s", lost=True) from None
        if line is None:
            raise WorkerFault(self._obituary(), lost=True)
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise WorkerFault(f"the measuring process answered {line.strip()[:80]!r}")
        if "error" in answer:
            raise WorkerFault(str(answer["error"]))
        return answer

    def _read_answers(self, stdout: IO[str]) -> None:
        for line in stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _obituary(self) -> str:
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "the measuring process closed its output"
        for reader in self._readers:
            reader.join(timeout=5)
        return self._explain(status, [line.strip() for line in self._chatter if line.strip()])
