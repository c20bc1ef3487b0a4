"""A real PostgreSQL server on a free loopback port, in a temporary folder."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ACCOUNT = "postgres"
"""The server refuses to run as root; Debian's package brings this account."""


def programs() -> Path | None:
    """The folder of initdb and pg_ctl, which Debian keeps off the path; None if there is no server here."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((folder for folder in reversed(folders) if (folder / "pg_ctl").is_file()), None)


class Server:
    """A running server.

    Args:
        folder: its own, owned by whoever runs it.
        port: on the loopback interface.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.url = f"postgresql://tester:secret@127.0.0.1:{port}/postgres"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = f"-h 127.0.0.1 -p {self.port} -k {self.folder} -c fsync=off"
        _run("pg_ctl", "-D", self.folder / "data", "-w", "-l", self.folder / "log", "-o", options, "start")

    def stop(self) -> None:
        """Stop it at once."""
        _run("pg_ctl", "-D", self.folder / "data", "-w", "-m", "immediate", "stop")


@contextmanager
def server() -> Iterator[Server]:
    """A server with one user, ``tester``, who needs a password."""
    with tempfile.TemporaryDirectory(prefix="edgekit-pg-") as name:
        folder = Path(name)
        (folder / "password").write_text("secret\n")
        if os.geteuid() == 0:
            for path in (folder, folder / "password"):
                shutil.chown(path, ACCOUNT)
        _run("initdb", "-D", folder / "data", "-U", "tester", "-A", "scram-sha-256", f"--pwfile={folder / 'password'}")
        made = Server(folder, _free_port())
        made.start()
        try:
            yield made
        finally:
            if (folder / "data" / "postmaster.pid").exists():
                made.stop()


def _run(program: str, *words: object) -> None:
    folder = programs()
    assert folder is not None
    account = ACCOUNT if os.geteuid() == 0 else None
    command = [str(folder / program), *map(str, words)]
    subprocess.run(command, user=account, cwd="/", check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
