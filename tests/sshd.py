"""A real sshd on loopback, run by the current user, with keys and a client config of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edgekit.device.file import Device
from edgekit.reach.ways import ssh

TOOLS = ("sshd", "ssh", "ssh-keygen")
PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))


@dataclass
class Board:
    """A device that is reached over ssh: this machine, with a home folder of its own."""

    folder: Path
    port: int
    daemon: subprocess.Popen[bytes]
    _stopping: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def config(self) -> Path:
        """Client config: which key, which known hosts."""
        return self.folder / "config"

    @property
    def cache(self) -> Path:
        """Where edgekit keeps things on it."""
        return self.folder / "home" / ".cache" / "edgekit"

    def reach(self, **changes: Any) -> dict[str, Any]:
        """The [reach] section of its device file."""
        found = {"by": "ssh", "host": "127.0.0.1", "port": self.port, "config": str(self.config), "timeout": 10}
        return {**found, "python": sys.executable, **changes}

    def device(self, name: str = "board", reach: dict[str, Any] | None = None, **run: Any) -> Device:
        """Its device file."""
        short = {"engines": ["onnxruntime"], "seconds": 0.05, "rounds": 2, "warmup": 1, **run}
        return Device.model_validate({"name": name, "reach": self.reach(**(reach or {})), "run": short})

    def connections(self) -> list[int]:
        """Processes of sshd that serve a connection."""
        children = Path(f"/proc/{self.daemon.pid}/task/{self.daemon.pid}/children").read_text()
        return [int(word) for word in children.split()]

    def cut(self) -> None:
        """Break every connection, as a cable that is pulled."""
        for child in self.connections():
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(child, signal.SIGKILL)

    @property
    def log(self) -> str:
        """What the daemon has written."""
        return (self.folder / "log").read_text()

    def stop(self) -> None:
        """No connection any more, and no new one. Devices are measured by a thread each: several may call this."""
        with self._stopping:
            if self.daemon.poll() is not None:
                return
            children = self.connections()
            self.daemon.terminate()
            self.daemon.wait()
            for child in children:
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            while _answers(self.port):  # a child that was just forked has the socket too
                time.sleep(0.02)

    def start(self) -> None:
        """Up again, at the same port, as if nothing had been."""
        self.daemon = _daemon(self.folder, self.port)


def start(folder: Path, **settings: str) -> Board:
    """Start one in an empty folder.

    Args:
        folder: for its keys, its home and its log.
        settings: lines of sshd_config.
    """
    folder.chmod(0o700)
    (folder / "home").mkdir(exist_ok=True)
    for key in ("host_key", "user_key"):
        if not (folder / key).exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    lines = {
        "ListenAddress": f"127.0.0.1:{port}",
        "HostKey": folder / "host_key",
        "AuthorizedKeysFile": folder / "authorized_keys",
        "PidFile": "none",
        "UsePAM": "no",
        "StrictModes": "no",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "PermitRootLogin": "yes",
        "SetEnv": f"HOME={folder / 'home'} TMPDIR={folder / 'home'} OMP_NUM_THREADS=1",
        **settings,
    }
    (folder / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in lines.items()))
    kind, key = (folder / "host_key.pub").read_text().split()[:2]
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {kind} {key}\n")
    (folder / "config").write_text(
        f"Host *\n  User {getpass.getuser()}\n  IdentityFile {folder / 'user_key'}\n  IdentitiesOnly yes\n"
        f"  IdentityAgent none\n  UserKnownHostsFile {folder / 'known_hosts'}\n  GlobalKnownHostsFile /dev/null\n"
    )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd insists on its empty folder
    return Board(folder, port, _daemon(folder, port))


def _daemon(folder: Path, port: int) -> subprocess.Popen[bytes]:
    program = shutil.which("sshd", path=PATH)
    assert program is not None
    with (folder / "log").open("ab") as log:
        daemon = subprocess.Popen([program, "-D", "-e", "-f", folder / "sshd_config"], stderr=log, stdout=log)
    end = time.monotonic() + 20
    while True:
        if _answers(port):
            return daemon
        if daemon.poll() is not None or time.monotonic() > end:
            daemon.kill()
            raise RuntimeError((folder / "log").read_text())
        time.sleep(0.02)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


Start = Callable[..., Board]


@pytest.fixture
def boards() -> Iterator[Start]:
    """Starts boards; ends them and their connections after the test."""
    missing = [tool for tool in TOOLS if shutil.which(tool, path=PATH) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)} (apt-get install openssh-server openssh-client)")
    started: list[Board] = []
    with tempfile.TemporaryDirectory(prefix="board-") as folder:

        def one(**settings: str) -> Board:
            own = Path(folder) / str(len(started))
            own.mkdir()
            started.append(start(own, **settings))
            return started[-1]

        yield one
        ssh.close()
        for board in started:
            board.stop()


@pytest.fixture
def board(boards: Start) -> Board:
    """One of them."""
    return boards()
