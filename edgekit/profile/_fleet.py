"""Several devices at once, a thread each, and what they share: a way to stop them all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edgekit.console import Console
from edgekit.errors import Shortfall
from edgekit.profile._worker import Worker, WorkerFault

if TYPE_CHECKING:
    from edgekit.device import Device

OPEN_TIMEOUT = 180.0
"""Seconds for a process to be ready."""
QUEUE_TIMEOUT = 4 * 3600.0
"""Seconds to wait for another measurement on the same machine."""
PATIENCE = 5.0
"""Seconds for a thread to notice that all is over."""


class Stopped(Exception):
    """Another device's error, or the user, has ended the work."""


class Fleet:
    """Runs one function for each device, and knows the processes that they start."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._workers: set[Worker] = set()
        self._over = threading.Event()

    def each(self, work: Sequence[Callable[[], None]]) -> None:
        """Call all of them, at the same time.

        Raises:
            Exception: the first that one of them has raised; the others are stopped.
        """
        if len(work) == 1:
            work[0]()
            return
        errors: list[BaseException] = []

        def guarded(one: Callable[[], None]) -> None:
            try:
                one()
            except Stopped:
                pass
            except BaseException as error:
                errors.append(error)
                self.stop()

        threads = [threading.Thread(target=guarded, args=(one,), daemon=True) for one in work]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException:
            self.stop()
            for thread in threads:
                thread.join(PATIENCE)
            raise
        if errors:
            raise errors[0]

    def stop(self) -> None:
        """End every process, and let no new one start."""
        with self._lock:
            self._over.set()
            for worker in self._workers:
                worker.kill()

    def pause(self, seconds: float) -> None:
        """Sleep, but not longer than there is something to do."""
        self._over.wait(seconds)

    def send(self, reach: ModuleType, file: Path, device: Device) -> str:
        """Have a file on the device; its path there. A reach without `send` sees the files of this machine."""
        send = getattr(reach, "send", None)
        return str(file.resolve() if send is None else send(file, device))

    @contextmanager
    def machine(self, name: str, reach: ModuleType, device: Device, console: Console) -> Iterator[dict[str, Any]]:
        """Have a device to ourselves: under its lock (`edgekit.runtime.machine`), until the context ends.

        Yields:
            `edgekit.runtime.machine.probe` there.

        Raises:
            Shortfall: it cannot be reached, or what it says makes no sense.
        """
        with self.worker(reach, ["-m", "edgekit.runtime.machine", "--hold"], device) as holder:
            try:
                facts = holder.listen(OPEN_TIMEOUT)
                if "waiting" in facts:
                    console.say(f"  {name}: waiting for another measurement there ({facts['waiting']} is locked)")
                    facts = holder.listen(QUEUE_TIMEOUT)
            except WorkerFault as fault:
                raise Shortfall(str(fault)) from None
            yield facts

    @contextmanager
    def worker(self, reach: ModuleType, argv: Sequence[str], device: Device) -> Iterator[Worker]:
        """Python on a device, ended with the context.

        Raises:
            Stopped: all is over.
            Shortfall: the device cannot be reached.
        """
        explain = getattr(reach, "explain", None)
        why = None if explain is None else lambda status, said: explain(status, said, device)
        if self._over.is_set():
            raise Stopped
        with Worker(reach.start(argv, device), why) as worker:
            with self._lock:
                self._workers.add(worker)
                if self._over.is_set():
                    raise Stopped
            try:
                yield worker
            finally:
                with self._lock:
                    self._workers.discard(worker)
