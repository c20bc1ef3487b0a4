"""Where trials are recorded: a journal file on this machine, or a database that workers on many machines share."""

from __future__ import annotations

import fcntl
import logging
import random
import time
import warnings
from pathlib import Path
from typing import IO

import optuna
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, ProgrammingError, SQLAlchemyError

from edgekit.errors import InputError, MissingPackage

CONNECT = 10
"""Seconds to wait for a database to answer."""
TRIES = 5
"""Of creating the tables, which workers that start together may do at the same time."""
DRIVERS = {"postgres": "postgresql+psycopg", "postgresql": "postgresql+psycopg"}


def is_url(storage: str) -> bool:
    """Whether a storage is a database."""
    return "://" in storage


def shown(storage: str) -> str:
    """A storage as it may be printed: without its password."""
    return _url(storage).render_as_string(hide_password=True) if is_url(storage) else storage


def journal(path: Path) -> JournalStorage:
    """A journal file, created if it does not exist.

    Raises:
        InputError: it cannot be written, or is no journal.
    """
    if not path.parent.is_dir():
        raise InputError(f"tune.storage = {path}: there is no folder {path.parent}; create it, or give another file")
    try:
        with path.open("ab"):
            pass
        return JournalStorage(JournalFileBackend(str(path), lock_obj=_Lock(path)))
    except OSError as error:
        raise InputError(f"tune.storage = {path}: cannot be written: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AssertionError) as error:  # what Optuna raises on lines of something else
        raise InputError(f"tune.storage = {path}: is not a journal of Optuna; give another file") from error


def database(storage: str, grace: float) -> RDBStorage:
    """A database, with Optuna's tables.

    Args:
        storage: its URL.
        grace: seconds without a sign of life after which a trial's worker counts as dead.

    Raises:
        InputError: the URL cannot be read, or the database cannot be reached.
        MissingPackage: its driver is not installed.
    """
    url = _url(storage)
    backend = url.get_backend_name()
    timeout = {"connect_timeout": CONNECT} if backend in ("postgresql", "mysql", "mariadb") else {}
    for attempt in range(1, TRIES + 1):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of the sign of life
                return RDBStorage(
                    url.render_as_string(hide_password=False),
                    engine_kwargs={"pool_pre_ping": True, "connect_args": timeout},
                    heartbeat_interval=max(1, int(grace / 4)),
                    grace_period=int(grace),
                )
        except NoSuchModuleError as error:
            raise InputError(
                f"tune.storage = {shown(storage)}: SQLAlchemy has no such kind of database; postgresql, mysql and "
                "sqlite are some"
            ) from error
        except ImportError as error:
            how = "pip install 'edgekit[tune-postgres]'" if backend == "postgresql" else "install it"
            raise MissingPackage(
                f"tune.storage = {shown(storage)}: needs a driver that is not installed: {how}, or name another one in "
                f"the URL, e.g. {backend}+<driver>://"
            ) from error
        except (IntegrityError, ProgrammingError) as error:
            if attempt == TRIES:
                raise _unreached(storage, error) from error
            time.sleep(random.random())  # noqa: S311
        except (SQLAlchemyError, optuna.exceptions.OptunaError, OSError) as error:
            raise _unreached(storage, error) from error
    raise AssertionError("not reached")


def silence() -> None:
    """Keep Optuna's own lines from the user's terminal: edgekit says what matters."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)


def _url(storage: str) -> URL:
    try:
        url = make_url(storage)
    except (ArgumentError, ValueError) as error:
        raise InputError(
            f"tune.storage: is not the URL of a database ({str(error).splitlines()[0].split(' from ')[0]}): "
            "e.g. postgresql://user:password@host:5432/name"
        ) from None
    return url.set(drivername=DRIVERS.get(url.drivername, url.drivername))


def _unreached(storage: str, error: Exception) -> InputError:
    lines = [line.strip() for line in str(getattr(error, "orig", None) or error).splitlines()]
    reason = next((line for line in lines if line), type(error).__name__)
    return InputError(
        f"tune.storage = {shown(storage)}: cannot be reached: {reason}; start the server, or check the URL"
    )


class _Lock(JournalFileOpenLock):
    """A lock that the kernel frees when its holder dies: no wait, and no line is left half-written.

    Optuna's own locks are files that a killed process leaves behind, which others take for held for 30 s.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._journal = path
        self._held: IO[bytes] | None = None

    def acquire(self) -> bool:
        file = self._journal.with_name(f"{self._journal.name}.lock").open("ab")
        fcntl.flock(file, fcntl.LOCK_EX)
        self._held = file
        _drop_half_line(self._journal)
        return True

    def release(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None


def _drop_half_line(path: Path) -> None:
    """Cut off what a process that was killed while it wrote has left at the end."""
    with path.open("rb+") as file:
        end = file.seek(0, 2)
        if not end:
            return
        file.seek(end - 1)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
