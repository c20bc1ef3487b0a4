"""A device over the network, through the OpenSSH client with the user's own keys, config and known hosts.

One connection per device, shared by all processes on it (ControlMaster, in a private folder). ssh never prompts
(BatchMode), and host keys are checked as the user's config says: a changed one is never accepted. On the device,
everything edgekit keeps is below ``~/.cache/edgekit``, named by its hash.
"""

from __future__ import annotations

import atexit
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

from edgekit.errors import InputError, Shortfall
from edgekit.measurements import Kind
from edgekit.reach import remote
from edgekit.reach.port import Target
from edgekit.reach.remote import Broken, Call

KIND: Kind = "measured"
ALIVE, MISSED = 5, 4
"""A device that is silent for `ALIVE` seconds, `MISSED` times in a row, is gone."""
TRIES = 3
"""Attempts at a transfer whose connection breaks; each resumes where the last one ended."""


@dataclass
class _Line:
    """The connection to one device."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    call: Call | None = None
    """The master connection: its agent waits until this process ends."""
    socket: str = ""
    runtime: str = ""
    """Where `edgekit.runtime` is on the device; empty until this connection has sent it."""


_lines: dict[tuple[str | None, ...], _Line] = {}
_guard = threading.Lock()


def start(argv: Sequence[str], device: Target) -> subprocess.Popen[str]:
    """Start Python on the device, with ``edgekit.runtime`` importable; see `edgekit.reach.port.Reach.start`.

    Raises:
        Shortfall: it cannot be reached or used; the message says why and what to do.
    """
    line = _connected(device)
    with line.lock:
        line.runtime = line.runtime or send(remote.runtime(), device)
    return subprocess.Popen(
        _command(device, line.socket, "run", line.runtime, *argv),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    )


def send(file: Path, device: Target) -> str:
    """Send a file to the device unless its SHA-256 is already there; a partial transfer is resumed.

    Returns:
        Its path on the device.

    Raises:
        Shortfall: the device cannot be reached or has no room, or the connection breaks repeatedly.
    """
    for left in reversed(range(TRIES)):
        line = _connected(device)
        with line.lock:
            try:
                return remote.receive(partial(_call, device, line.socket), file)
            except Broken as broken:
                if not left:
                    raise Shortfall(f"sending {file.name}: {broken}") from None
    raise AssertionError


def clean(device: Target) -> None:
    """Remove every file that was sent to the device, and end the connection.

    Raises:
        Shortfall: it cannot be reached.
    """
    line = _connected(device)
    call = _call(device, line.socket, ("clean",))
    try:
        call.answer()
    except Broken as broken:
        raise Shortfall(str(broken)) from None
    finally:
        call.close()
        _hang_up(line)


def close() -> None:
    """Close all connections of this process."""
    with _guard:
        lines = list(_lines.values())
        _lines.clear()
    for line in lines:
        _hang_up(line)


def explain(status: int, said: Sequence[str], device: Target) -> str:
    """Why a process on the device ended, from ssh's exit status (255: ssh itself) and its last lines."""
    reach, host = device.reach, str(device.reach.host)
    text = "\n".join(said)
    by_hand = shlex.join(["ssh", *_where(device)])
    if status != 255:
        return remote.obituary(status, said, reach.python)
    if "IDENTIFICATION HAS CHANGED" in text:
        name = f"[{host.rpartition('@')[2]}]:{reach.port}" if reach.port else host.rpartition("@")[2]
        return (
            "its host key has changed: it was reinstalled, or somebody is intercepting the connection; "
            f"if you know why: {shlex.join(['ssh-keygen', '-R', name])}"
        )
    if "Host key verification failed" in text:
        return f"its host key is not known yet: connect once by hand and compare the fingerprint: {by_hand}"
    if "Permission denied" in text:
        reason = next(part for part in reversed(said) if "Permission denied" in part)
        return f"{reason}: it accepts none of your keys; {shlex.join(['ssh-copy-id', *_where(device)])}"
    last = next((part for part in reversed(said) if part and not part.startswith("mux_client")), "")
    return last.removeprefix("ssh: ") or "the connection broke"


def _connected(device: Target) -> _Line:
    """The connection to a device, opened again if it has ended.

    Raises:
        InputError: the OpenSSH client is not installed on this machine.
        Shortfall: the device cannot be reached or used.
    """
    reach = device.reach
    with _guard:
        line = _lines.setdefault((reach.host, str(reach.port), reach.config, reach.python), _Line())
    with line.lock:
        if line.call is not None and line.call.process.poll() is None:
            return line
        _hang_up(line)
        if shutil.which("ssh") is None:
            raise InputError('reach.by = "ssh" needs the OpenSSH client: apt-get install openssh-client')
        line.socket = str(_folder() / str(_number()))
        call = _call(device, line.socket, ("hello",), master=True)
        try:
            call.answer(reach.timeout + remote.ANSWER)
        except BaseException as trouble:
            call.close()
            if isinstance(trouble, (Broken, Shortfall)):
                raise Shortfall(str(trouble)) from None
            raise
        line.call = call
        return line


def _hang_up(line: _Line) -> None:
    with line.lock:
        if line.call is not None:
            line.call.close()
            Path(line.socket).unlink(missing_ok=True)
        line.call = None
        line.runtime = ""


def _call(device: Target, socket: str, words: Sequence[str], master: bool = False) -> Call:
    return Call(_command(device, socket, *words, master=master), lambda status, said: explain(status, said, device))


def _command(device: Target, socket: str, *words: str, master: bool = False) -> list[str]:
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": f"{max(1, round(device.reach.timeout))}",
        "ServerAliveInterval": ALIVE,
        "ServerAliveCountMax": MISSED,
        "ControlMaster": "yes" if master else "no",
        "ControlPersist": "no",
        "ControlPath": socket,
        "ClearAllForwardings": "yes",
        "ForwardAgent": "no",
        "PermitLocalCommand": "no",
        "RemoteCommand": "none",
        "RequestTTY": "no",
        "LogLevel": "ERROR",
    }
    settings = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    *where, host = _where(device)
    return ["ssh", *settings, *where, "--", host, "exec " + remote.agent(device.reach.python, *words)]


def _where(device: Target) -> list[str]:
    reach = device.reach
    config = ["-F", reach.config] if reach.config else []
    return [*config, *(["-p", str(reach.port)] if reach.port else []), str(reach.host)]


@cache
def _folder() -> Path:
    """A private folder for the sockets; short, as a socket's path is limited to 104 bytes on some systems."""
    folder = tempfile.mkdtemp(prefix="ek-", dir="/tmp")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(close)
    return Path(folder)


_used: list[int] = []


def _number() -> int:
    """A number that no socket of this process has used."""
    with _guard:
        _used.append(len(_used))
        return _used[-1]
