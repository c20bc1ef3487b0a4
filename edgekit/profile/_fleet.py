"""Several devices at once, a thread each, and what they share: a way to stop them all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from edgekit import choices
from edgekit.console import Advance, Console
from edgekit.errors import Shortfall
from edgekit.measurements import Failure
from edgekit.reach.worker import Worker, WorkerFault

if TYPE_CHECKING:
    from edgekit.device.file import Device


class Task(Protocol):
    """Something to do on a device with one file in one engine; a `Timing` says as much."""

    @property
    def artifact(self) -> str:
        """`Artifact.id`."""

    @property
    def engine(self) -> str:
        """A name of ``edgekit/runtime/engines``."""

    @property
    def device(self) -> str:
        """The name that results carry."""

    @property
    def threads(self) -> int:
        """Of the engine."""


Row = TypeVar("Row")
AnyTask = TypeVar("AnyTask", bound=Task)

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

    def rows(
        self,
        what: str,
        devices: Mapping[str, Device],
        wanted: Mapping[str, Sequence[AnyTask]],
        one: Callable[[Device, AnyTask, Mapping[str, Any]], Row],
        console: Console,
    ) -> tuple[list[Row], list[Failure]]:
        """Do each of these tasks on its device: all devices at once, each under its lock.

        Args:
            what: is done, for progress and for failures.
            devices: by name.
            wanted: tasks by device.
            one: is given the device, the task and `edgekit.runtime.machine.probe` there.
            console: progress.

        Returns:
            What `one` has returned, in the order of the devices and tasks; and a failure for each WorkerFault that it
            has raised, and for what was left on a device that was lost.
        """
        found: dict[str, list[Row]] = {name: [] for name in devices}
        failed: dict[str, list[Failure]] = {name: [] for name in devices}

        def fail(task: AnyTask, reason: str, lost: bool) -> None:
            failure = Failure(task.artifact, task.engine, task.device, task.threads, f"{what}: {reason}", lost)
            failed[task.device].append(failure)

        def visit(name: str, device: Device, advance: Advance) -> None:
            reach, left = choices.pick("edgekit.reach.ways", device.reach.by, f"{name}: reach.by"), list(wanted[name])
            try:
                with self.machine(name, reach, device, console) as facts:
                    while left:
                        try:
                            found[name].append(one(device, left[0], facts))
                        except WorkerFault as fault:
                            fail(left[0], str(fault), fault.lost)
                        advance(1, f"{left.pop(0).artifact} on {name}")
            except Shortfall as trouble:
                for task in left:
                    fail(task, str(trouble), True)

        with console.bar(f"{what} on the devices", sum(map(len, wanted.values()))) as advance:
            self.each([partial(visit, name, device, advance) for name, device in devices.items() if wanted[name]])
        return [row for name in devices for row in found[name]], [each for name in devices for each in failed[name]]

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
