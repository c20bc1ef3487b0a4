"""Run directories: ``runs/<recipe>/<n>-<stage>/`` with a ``stage.json`` each. Standard library only.

A stage is skipped if it has finished before with the same inputs and its outputs are intact. It is written to a hidden
``.partial`` folder and renamed, so that a kill at any moment leaves the old stage, the new one or that folder, never
half a stage.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit import __version__
from edgekit.disk.atomic import disk_full, write_text
from edgekit.errors import Busy, InputError, Shortfall

ORDER = ("data", "train", "prune", "lower", "quantize", "export", "verify", "bundle", "profile", "report")
"""The number in the name of a stage's folder is its position here."""
RECORD = "stage.json"
KEY = "key"
UNVERIFIED = "UNVERIFIED.txt"
"""Placed beside exported files that failed verification; not an output of their stage."""


@dataclass(frozen=True)
class Done:
    """A finished stage."""

    name: str
    path: Path
    digest: str
    """SHA-256 over the stage's files: what later stages depend on."""
    seconds: float
    """How long it took when it ran."""
    cached: bool
    """True if nothing had changed, so that it did not run again."""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """What it depended on, as recorded."""


class RunDirectory:
    """One run of one recipe on disk.

    Args:
        path: its folder.
        beside: folder of runs whose finished stages are taken over where they have the same inputs. Of several
            processes that come to the same stage, one runs it, and the others wait for its results.
    """

    def __init__(self, path: Path, beside: Path | None = None) -> None:
        self.path, self.beside = path, beside

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory for this process.

        Raises:
            Busy: another process holds it.
            InputError: the directory cannot be created or written to.
            DiskFull: there is no room for what the caller writes.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / ".lock").open("ab+", buffering=0)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be used as a run directory: {error.strerror}") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().decode() or "unknown"
                raise Busy(
                    f"{self.path}: another edgekit is running here (process {holder}); "
                    "wait for it, or give --out another folder"
                ) from None
            try:
                file.truncate(0)
                file.write(str(os.getpid()).encode())
                yield
            except OSError as error:
                raise disk_full(error, self.path) or error from None

    def folder(self, name: str) -> Path:
        """Where a stage's results are (or would be)."""
        return self.path / f"{ORDER.index(name) + 1}-{name}"

    def find(self, name: str) -> Done | None:
        """A finished stage whose files are all as written, regardless of its inputs."""
        record = _read(self.folder(name))
        return None if record is None else _done(name, self.folder(name), record, cached=True)

    def adopt(self, other: RunDirectory, name: str) -> None:
        """Take over a finished stage of another run, in place of one with other inputs.

        Whether it fits is decided when this run comes to that stage, by its inputs, as always. Files are linked where
        the file system can, as stages never change what they wrote.
        """
        final = self.folder(name)
        if _key(final) != _key(other.folder(name)) and other.find(name) is not None:
            _remove(final)
            self._copy(other, name)

    def _copy(self, other: RunDirectory, name: str) -> None:
        final = self.folder(name)
        partial = final.with_name(f".{final.name}.adopted")
        _remove(partial)
        self.path.mkdir(parents=True, exist_ok=True)
        shutil.copytree(other.folder(name), partial, copy_function=_link)
        partial.rename(final)

    def stage(
        self,
        name: str,
        inputs: Mapping[str, Any],
        build: Callable[[Path], None],
        *,
        before: Callable[[], None] = lambda: None,
        resumable: bool = False,
    ) -> Done:
        """Run a stage unless it is already finished.

        Args:
            name: one of `ORDER`.
            inputs: everything the result depends on, as JSON-like data.
            build: writes the stage's files into the folder it is given.
            before: called once if the stage is actually about to run.
            resumable: `build` can resume from files that a killed run with the same inputs left in its folder.

        Raises:
            Shortfall: raised by `build`; the files stay in ``<n>-<stage>.failed`` for inspection.
            DiskFull: there is no room for the stage's files.
        """
        inputs = {"stage": name, "edgekit": __version__, **inputs}
        key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
        with self._alone(key):
            return self._stage(name, key, inputs, build, before, resumable)

    @contextlib.contextmanager
    def _alone(self, key: str) -> Iterator[None]:
        """Keep other processes from running the same stage for a run beside this one."""
        if self.beside is None:
            yield
            return
        with (self.beside / f".stage-{key[:16]}.lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _take_over(self, name: str, key: str) -> None:
        """Copy the stage from a run beside this one that finished it with the same inputs."""
        for folder in sorted(self.beside.iterdir()) if self.beside else ():
            other = RunDirectory(folder)
            if folder != self.path and _key(other.folder(name)) == key and other.find(name) is not None:
                _remove(self.folder(name))
                self._copy(other, name)
                return

    def _stage(
        self,
        name: str,
        key: str,
        inputs: Mapping[str, Any],
        build: Callable[[Path], None],
        before: Callable[[], None],
        resumable: bool,
    ) -> Done:
        final = self.folder(name)
        partial = final.with_name(f".{final.name}.partial")
        old = final.with_name(f".{final.name}.old")
        failed = final.with_name(f"{final.name}.failed")
        record = _read(final)
        if record is None or record["key"] != key:
            self._take_over(name, key)
            record = _read(final)
        if record is not None and record["key"] == key:
            _remove(old)
            _remove(failed)
            return _done(name, final, record, cached=True)
        record = _read(partial)
        if record is None or record["key"] != key:  # else: killed between the last write and the rename
            before()
            record = _run(name, key, inputs, build, partial, failed, resumable)
        (partial / KEY).unlink(missing_ok=True)
        _remove(old)
        if final.exists():
            final.rename(old)
        partial.rename(final)
        _remove(old)
        _remove(failed)
        return _done(name, final, record, cached=False)


def _run(
    name: str,
    key: str,
    inputs: Mapping[str, Any],
    build: Callable[[Path], None],
    partial: Path,
    failed: Path,
    resumable: bool,
) -> dict[str, Any]:
    mark = partial / KEY
    if not (resumable and mark.is_file() and mark.read_text() == key):
        _remove(partial)
        partial.mkdir()
        mark.write_text(key)
    start = time.perf_counter()
    try:
        build(partial)
        record = {
            "name": name,
            "key": key,
            "inputs": inputs,
            "outputs": _hashes(partial),
            "seconds": round(time.perf_counter() - start, 3),
        }
        write_text(partial / RECORD, json.dumps(record, indent=1))
    except Exception as error:
        full = disk_full(error, partial.parent)  # asked before cleaning up makes room
        if isinstance(error, Shortfall) and not full:
            mark.unlink()
            _remove(failed)
            partial.rename(failed)
            raise Shortfall(f"{error} (files: {failed})") from error
        if not resumable:
            _remove(partial)
        if full:
            raise full from error
        raise
    return record


def _read(folder: Path) -> dict[str, Any] | None:
    """The record of a finished stage; None if there is none or its files do not match it."""
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return record if _hashes(folder) == record["outputs"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _key(folder: Path) -> str | None:
    """The key of a finished stage, without a look at its files."""
    try:
        return str(json.loads((folder / RECORD).read_text(encoding="utf-8"))["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _done(name: str, folder: Path, record: Mapping[str, Any], cached: bool) -> Done:
    digest = hashlib.sha256(json.dumps(record["outputs"], sort_keys=True).encode()).hexdigest()
    return Done(name, folder, digest, float(record["seconds"]), cached, record.get("inputs", {}))


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file a stage wrote; logs, and hidden files left half-written by a kill, do not count."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(files)
        if path.name not in (RECORD, KEY, UNVERIFIED) and path.suffix != ".log" and not path.name.startswith(".")
    }


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
