"""Whether the worker of a running trial is alive: by a lock that its death frees, or by its signs of life.

On one machine each worker holds a lock on a file of its own, so that the kernel says at once, and without error,
whether it lives. In a database each worker renews a time stamp by the database's clock; one that has not done so for
the grace period counts as dead. If it was only frozen, it finds its trial ended and drops its result: a trial that has
ended never changes.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import optuna
from optuna import Study, Trial
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from edgekit.disk import locks

WORKER = "worker"
"""Attribute of a trial: who runs it."""
UNSIGNED = 10.0
"""Seconds after which a running trial without a worker's name counts as dead: it takes milliseconds to write."""


class Lease(Protocol):
    """How this worker shows that it is alive, and sees whether others are."""

    worker: str
    """Its name: host, process and a random part."""

    def sign(self, trial: Trial) -> None:
        """Write this worker's name on a trial that it has just taken."""

    def alive(self, trial: Trial) -> contextlib.AbstractContextManager[None]:
        """Show signs of life while the trial runs."""

    def bury(self, study: Study) -> None:
        """End the running trials of dead workers, which can then be begun again. This one must not have any."""

    def close(self) -> None:
        """This worker is done."""


class _Unsigned:
    """Running trials whose worker was killed before it wrote its name."""

    def __init__(self) -> None:
        self._since: dict[int, float] = {}

    def bury(self, study: Study) -> None:
        now = time.monotonic()
        found = [trial.number for trial in running(study) if WORKER not in trial.user_attrs]
        self._since = {number: self._since.get(number, now) for number in found}
        for number, since in self._since.items():
            if now - since > UNSIGNED:
                end(study, number)


class Locks:
    """Workers of one machine.

    Args:
        folder: of their lock files; created if it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._unsigned = _Unsigned()
        folder.mkdir(exist_ok=True)
        self.worker = _name()
        self._file = locks.take(folder / self.worker)
        assert self._file is not None

    def sign(self, trial: Trial) -> None:
        """Write this worker's name on a trial that it has just taken."""
        trial.set_user_attr(WORKER, self.worker)

    def alive(self, trial: Trial) -> contextlib.AbstractContextManager[None]:
        """The lock says it all."""
        return contextlib.nullcontext()

    def bury(self, study: Study) -> None:
        """End the running trials whose worker no longer holds its lock."""
        self._unsigned.bury(study)
        for trial in running(study):
            worker = trial.user_attrs.get(WORKER)
            if worker is not None and (worker == self.worker or self._is_dead(worker)):
                end(study, trial.number)

    def close(self) -> None:
        """Remove the lock file: a worker without one is dead."""
        assert self._file is not None
        (self._folder / self.worker).unlink(missing_ok=True)
        self._file.close()

    def _is_dead(self, worker: str) -> bool:
        path = self._folder / Path(worker).name
        if not path.exists():
            return True
        file = locks.take(path)
        if file is not None:
            file.close()
        return file is not None


class Signs:
    """Workers of many machines, by Optuna's heartbeat."""

    def __init__(self, storage: RDBStorage) -> None:
        self._storage = storage
        self._unsigned = _Unsigned()
        self.worker = _name()

    def sign(self, trial: Trial) -> None:
        """Give the first sign of life, then the name: one with a name can be found dead."""
        self._storage.record_heartbeat(trial._trial_id)
        trial.set_user_attr(WORKER, self.worker)

    @contextlib.contextmanager
    def alive(self, trial: Trial) -> Iterator[None]:
        """Give signs of life from a thread."""
        over = threading.Event()
        interval = self._storage.get_heartbeat_interval()
        assert interval is not None

        def beat() -> None:
            while not over.wait(interval):
                with contextlib.suppress(Exception):  # the database may be back in time for the next one
                    self._storage.record_heartbeat(trial._trial_id)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def bury(self, study: Study) -> None:
        """End the running trials without a sign of life for the grace period."""
        self._unsigned.bury(study)
        for trial in running(study):
            if trial.user_attrs.get(WORKER) == self.worker:
                end(study, trial.number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            optuna.storages.fail_stale_trials(study)

    def close(self) -> None:
        """Close the connections."""
        self._storage.remove_session()
        self._storage.engine.dispose()


def running(study: Study) -> list[FrozenTrial]:
    """Trials that some worker has taken."""
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def end(study: Study, number: int) -> bool:
    """End a trial without a result; False if it has ended already."""
    try:
        study.tell(number, state=TrialState.FAIL)
    except (optuna.exceptions.UpdateFinishedTrialError, ValueError):
        return False
    return True


def _name() -> str:
    host = "".join(c if c.isalnum() else "-" for c in socket.gethostname())[:40]
    return f"{host}-{os.getpid()}-{secrets.token_hex(3)}"
