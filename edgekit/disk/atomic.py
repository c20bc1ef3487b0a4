"""Files that are complete or absent: written to a temporary name, then renamed. Standard library only."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path

from edgekit.errors import DiskFull, EdgekitError, InputError

FULL = 1 << 20
"""With fewer free bytes than this, a failure is blamed on a full disk."""


def disk_full(error: Exception, folder: Path) -> DiskFull | None:
    """What to raise instead of `error` if a full disk caused it: writers report that in many ways."""
    if isinstance(error, DiskFull):  # found where it was written
        return error
    said = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if said or shutil.disk_usage(folder).free < FULL:
        reason = str(error).strip().partition("\n")[0]
        return DiskFull(f"{folder}: the disk is full ({reason}); free some space and run the same command again")
    return None


def cannot_write(path: Path, error: OSError) -> EdgekitError:
    """What to raise if a file or folder that the user asked for cannot be written."""
    full = disk_full(error, path.parent) if path.parent.is_dir() else None
    return full or InputError(f"{path}: cannot be written: {error.strerror or error}")


def write_text(path: Path, text: str) -> None:
    """Write a text file under a temporary name and rename it, so that no reader ever sees half of it."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file under a temporary name and rename it, so that no reader ever sees half of it."""
    beside = path.with_name(f".{path.name}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        remove(beside)
        raise


def remove(path: Path) -> None:
    """Delete a temporary file, if there is one and the disk allows it: what went wrong before is what to tell."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
