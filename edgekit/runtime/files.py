"""Which files of a folder can be read, and why others cannot: training and prediction list folders through it."""

from __future__ import annotations

import errno
import os
import stat

LITTER = frozenset(("$RECYCLE.BIN", "@eaDir", "System Volume Information", "__MACOSX", "lost+found"))
"""Folders that archivers and operating systems leave among a user's own."""
_KINDS = {stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}


def skipped(name: str) -> bool:
    """Whether a file or folder of that name is hidden, or no user's own."""
    return name.startswith(".") or name in LITTER


def trouble(path: str) -> str:
    """Why a path is not a file that can be read to its end (one line); "" if it is.

    Opening a pipe waits for a writer, and a device may never end.
    """
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP) and os.path.islink(path):
            return "a link that leads nowhere"
        return (error.strerror or str(error)).lower()
    except ValueError as error:  # a null byte
        return str(error)
    if kind == stat.S_IFDIR:
        return "is a directory"
    return "" if kind == stat.S_IFREG else f"a {_KINDS.get(kind, 'special file')}, not a file"


def leads_back(link: str, folder: str) -> bool:
    """Whether a folder is `folder`, or one that holds it; `folder` is a real path."""
    return os.path.commonpath((os.path.realpath(link), folder)) == os.path.realpath(link)


def walk(folder: str, links: bool = True) -> list[tuple[str, str]]:
    """All files below a folder, but hidden ones and litter.

    Args:
        folder: where to start.
        links: follow links to folders. No folder is read twice, so that loops end.

    Returns:
        (path relative to `folder` with forward slashes, why it cannot be read, or ""), sorted by path. A folder that
        cannot be read, and a link that is not followed because it leads to one that is, stand for what is in them.
    """
    start = os.path.realpath(folder)
    found: list[tuple[str, str]] = []
    seen: dict[str, str] = {}
    waiting: list[tuple[str, str]] = [("", start)]
    linked: list[tuple[str, str]] = []
    while waiting or linked:
        # Real folders first: of two ways to a folder, the one without a link counts.
        path, real = waiting.pop() if waiting else linked.pop(0)
        if path and leads_back(real, start):
            found.append((path, "a link back to a folder that it lies in"))
            continue
        if real in seen:
            found.append((path, f"a folder that is read already, as {seen[real] or '.'}"))
            continue
        seen[real] = path
        try:
            entries = sorted(os.scandir(os.path.join(folder, path)), key=lambda entry: entry.name)
        except OSError as error:
            found.append((path, f"a folder that cannot be read: {(error.strerror or str(error)).lower()}"))
            continue
        for entry in entries:
            if skipped(entry.name):
                continue
            name = f"{path}/{entry.name}" if path else entry.name
            if entry.is_dir(follow_symlinks=False):
                waiting.append((name, os.path.join(real, entry.name)))
            elif os.path.isdir(entry.path):
                linked += [(name, os.path.realpath(entry.path))] if links else []
            else:
                found.append((name, "" if entry.is_file(follow_symlinks=False) else trouble(entry.path)))
    return sorted(found)
