"""Where members come from: a bundle's file, or the folder of a hand-written manifest."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import zlib
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from edgekit.runtime import _schema, archive, manifest_file
from edgekit.runtime.errors import RuntimeFault, first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import FileIO

    Wait = Callable[[], None]
    _Job = tuple[int, Callable[[], None]]

_PARALLEL = 2**21
"""Bytes above which threads pay off."""


class File:
    """Members of a bundle. Each is read once, when first needed, into memory of its own, as engines want it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._members: dict[str, bytes] = {}
        with _opened(path) as file:
            self._identity = _identity(file)
            size = os.fstat(file.fileno()).st_size
            self._entries = {entry.name: entry for entry in archive.layout(size, partial(_fetch, file, path), path)}
        if archive.MANIFEST not in self._entries:
            raise archive.unsound(path, f"{archive.MANIFEST} is missing")
        self._locks = {name: threading.Lock() for name in self._entries}
        self._crc(self._entries[archive.MANIFEST])

    def names(self) -> tuple[str, ...]:
        """Names of the members, in file order."""
        return tuple(self._entries)

    def read(self, name: str) -> bytes:
        """Content of a member; RuntimeFault if there is no such member, or the file is gone."""
        if name not in self._entries:
            raise RuntimeFault(f"{self.path}: no member {name!a} (there are: {', '.join(self._entries)})")
        with self._locks[name]:
            if name not in self._members:
                with _opened(self.path) as file:
                    if _identity(file) != self._identity:
                        raise RuntimeFault(f"{self.path}: it was replaced during reading; open it again")
                    entry = self._entries[name]
                    self._members[name] = _fetch(file, self.path, entry.offset, entry.size)
            return self._members[name]

    def check(self, manifest: dict[str, Any], contents: bool) -> Wait:
        """Compare the members with what the manifest lists; with `contents` their bytes, too.

        Returns:
            A function to call before any member is used: threads may still be hashing; it raises what they find.

        Raises:
            RuntimeFault: a member is missing, not listed, or not what was listed.
        """
        listed = manifest.get("members")
        if listed is None:
            raise RuntimeFault(f'{self.path}: the manifest: "members" is missing; pack the bundle again')
        members = {name: e for name, e in self._entries.items() if name not in (archive.MANIFEST, archive.SIGNATURE)}
        for name in sorted(members.keys() ^ listed.keys()):
            raise archive.unsound(self.path, f"{name} is {'not listed' if name in members else 'missing'}")
        for name, entry in members.items():
            if entry.size != listed[name]["bytes"]:
                raise archive.unsound(
                    self.path, f"{name} has {entry.size} bytes, not {listed[name]['bytes']} as listed"
                )
        jobs: list[_Job] = []
        if contents:
            jobs += [(entry.size, partial(self._crc, entry)) for entry in self._entries.values()]
            jobs += [
                (2 * entry.size, partial(self._sha256, entry, listed[name]["sha256"]))
                for name, entry in members.items()
            ]
        return _started(jobs)

    def _crc(self, entry: archive.Entry) -> None:
        if zlib.crc32(self.read(entry.name)) != entry.crc:
            raise archive.unsound(self.path, f"{entry.name} was changed (CRC-32)")

    def _sha256(self, entry: archive.Entry, wanted: str) -> None:
        if hashlib.sha256(self.read(entry.name)).hexdigest() != wanted:
            raise archive.unsound(self.path, f"{entry.name} was changed (SHA-256)")


class Folder:
    """Members beside a hand-written manifest: read when they are asked for."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._folder = os.path.realpath(os.path.dirname(path) or ".")
        self._manifest = contents(path, _schema.LARGEST)
        self._members: dict[str, str] = {}
        self._listed: dict[str, dict[str, Any]] = {}

    def names(self) -> tuple[str, ...]:
        """The manifest, and the members it refers to."""
        return (archive.MANIFEST, *sorted(self._members))

    def read(self, name: str) -> bytes:
        """Content of a member; RuntimeFault if there is none, or it is not what the manifest lists."""
        if name == archive.MANIFEST:
            return self._manifest
        if name not in self._members:
            raise RuntimeFault(f"{self.path}: no member {name!a} (there are: {', '.join(self.names())})")
        file = os.path.realpath(os.path.join(self._folder, name))
        if os.path.commonpath([file, self._folder]) != self._folder:
            raise RuntimeFault(
                f"{self.path}: {self._members[name]}: {name} leads out of the folder; copy the file here"
            )
        data = contents(file)
        listed = self._listed.get(name)
        if listed and (len(data), hashlib.sha256(data).hexdigest()) != (listed["bytes"], listed["sha256"]):
            raise RuntimeFault(f"{file}: not the file that {self.path} lists (SHA-256); correct either of them")
        return data

    def check(self, manifest: dict[str, Any], contents: bool) -> Wait:
        """As `File.check`, but finished on return; a member without a listed hash need only exist."""
        self._members = {**dict.fromkeys(manifest.get("members", ()), "members"), **manifest_file.named(manifest)}
        for reserved in {archive.MANIFEST, archive.SIGNATURE} & self._members.keys():
            raise RuntimeFault(f"{self.path}: {self._members[reserved]}: {reserved} is a reserved name; rename it")
        self._listed = manifest.get("members", {}) if contents else {}
        for name, place in self._members.items():
            if name in self._listed:
                self.read(name)
            elif not os.path.isfile(os.path.join(self._folder, name)):
                raise RuntimeFault(f"{self.path}: {place}: there is no file {os.path.join(self._folder, name)}")
        return _started([])


def contents(path: str, limit: int = archive.LIMIT) -> bytes:
    """A file's bytes, of `limit` at most.

    Raises:
        RuntimeFault: not a file, empty, not readable, too large.
    """
    with _opened(path, limit) as file:
        return file.read()


@contextmanager
def _opened(path: str, limit: int = archive.LIMIT) -> Iterator[FileIO]:
    """A file opened for reading; what goes wrong while it is open becomes a RuntimeFault."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe may never end
            raise RuntimeFault(f"{path!s}: not a file")
        if not 0 < status.st_size <= limit:
            raise RuntimeFault(f"{path!s}: {status.st_size} bytes (1 to {limit} are allowed); fetch or write it again")
        with open(path, "rb", buffering=0) as file:
            yield file
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        raise RuntimeFault(f"{path!a}: cannot be read: {reason}") from None
    except MemoryError:
        raise RuntimeFault(f"{path}: out of memory while reading {status.st_size} bytes") from None


def _identity(file: FileIO) -> tuple[int, ...]:
    """What changes when a file is written to, or another one takes its name."""
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _fetch(file: FileIO, path: str, offset: int, count: int) -> bytes:
    data = os.pread(file.fileno(), count, offset)
    if len(data) != count:
        raise archive.unsound(path, "it was truncated during reading")
    return data


def _started(jobs: list[_Job]) -> Wait:
    """Start all jobs, each with its cost in bytes.

    In threads if there is much to do: reading and hashing release Python's lock.

    Args:
        jobs: the most expensive ones are done first.

    Returns:
        A function that does what is left and returns when all is done; of several faults it raises the first job's.
    """
    queue = sorted(range(len(jobs)), key=lambda place: jobs[place][0])
    faults: dict[int, Exception] = {}

    def work() -> None:
        while queue:
            try:
                place = queue.pop()
            except IndexError:  # another thread was faster
                return
            try:
                jobs[place][1]()
            except Exception as error:
                faults[place] = error

    def wait() -> None:
        work()
        for thread in threads:
            thread.join()
        for _, error in sorted(faults.items()):
            raise error

    much = sum(cost for cost, _ in jobs) > _PARALLEL
    count = min(os.cpu_count() or 1, len(jobs), 4) if much else 0
    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    return wait
