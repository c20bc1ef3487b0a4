"""Several devices at once, one thread each, and a way to stop them all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from edgekit.console import Advance, Console
from edgekit.errors import Shortfall
from edgekit.measurements import Failure
from edgekit.reach.port import Reach, way
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
"""Seconds to wait for a process to be ready."""
QUEUE_TIMEOUT = 4 * 3600.0
"""Seconds to wait for another measurement on the same machine."""
PATIENCE = 5.0
"""Seconds to wait for a thread to notice that the work was stopped."""


class Stopped(Exception):
    """An error on another device, or the user, stopped the work."""


class Fleet:
    """Runs one function per device, and keeps track of the processes that they start."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._workers: set[Worker] = set()
        self._over = threading.Event()

    def each(self, work: Sequence[Callable[[], None]]) -> None:
        """Call all of them in parallel.

        Raises:
            Exception: the first one raised by any of them; the others are stopped.
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
        """End all processes, and let no new ones start."""
        with self._lock:
            self._over.set()
            for worker in self._workers:
                worker.kill()

    def pause(self, seconds: float) -> None:
        """Sleep, but wake up if the work is stopped."""
        self._over.wait(seconds)

    def rows(
        self,
        what: str,
        devices: Mapping[str, Device],
        wanted: Mapping[str, Sequence[AnyTask]],
        one: Callable[[Device, AnyTask, Mapping[str, Any]], Row],
        console: Console,
    ) -> tuple[list[Row], list[Failure]]:
        """Call `one` for each task on its device: all devices in parallel, each under its lock.

        Args:
            what: name of the work, for progress and failures.
            devices: by name.
            wanted: tasks by device.
            one: called with the device, the task and `edgekit.runtime.machine.probe` there.
            console: progress.

        Returns:
            What `one` returned, in the order of the devices and tasks; and a failure for each WorkerFault that it
            raised, and for what was left to do on a device that was lost.
        """
        rows: dict[str, list[Row]] = {name: [] for name in devices}
        failed: dict[str, list[Failure]] = {name: [] for name in devices}

        def fail(task: AnyTask, reason: str, lost: bool) -> None:
            failure = Failure(task.artifact, task.engine, task.device, task.threads, f"{what}: {reason}", lost)
            failed[task.device].append(failure)

        def visit(name: str, device: Device, advance: Advance) -> None:
            reach, left = way(device.reach.by, f"{name}: reach.by"), list(wanted[name])
            try:
                with self.machine(name, reach, device, console) as facts:
                    while left:
                        try:
                            rows[name].append(one(device, left[0], facts))
                        except WorkerFault as fault:
                            fail(left[0], str(fault), fault.lost)
                        advance(1, f"{left.pop(0).artifact} on {name}")
            except Shortfall as trouble:
                for task in left:
                    fail(task, str(trouble), True)

        with console.bar(f"{what} on the devices", sum(map(len, wanted.values()))) as advance:
            self.each([partial(visit, name, device, advance) for name, device in devices.items() if wanted[name]])
        return [row for name in devices for row in rows[name]], [each for name in devices for each in failed[name]]

    @contextmanager
    def machine(self, name: str, reach: Reach, device: Device, console: Console) -> Iterator[dict[str, Any]]:
        """Hold the lock of a device (`edgekit.runtime.machine`) until the context ends.

        Yields:
            `edgekit.runtime.machine.probe` of the device.

        Raises:
            Shortfall: it cannot be reached, or its answer is not understood.
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
    def worker(self, reach: Reach, argv: Sequence[str], device: Device) -> Iterator[Worker]:
        """Python on a device, ended with the context.

        Raises:
            Stopped: the work was stopped.
            Shortfall: the device cannot be reached.
        """
        if self._over.is_set():
            raise Stopped
        with Worker(reach.start(argv, device), lambda status, said: reach.explain(status, said, device)) as worker:
            with self._lock:
                self._workers.add(worker)
                if self._over.is_set():
                    raise Stopped
            try:
                yield worker
            finally:
                with self._lock:
                    self._workers.discard(worker)
