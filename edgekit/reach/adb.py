"""An Android phone on a cable: Python of the Termux app, entered with ``adb shell run-as``.

Android lets ``run-as`` into debuggable apps only. Termux from its GitHub releases is one; the build of F-Droid is not,
and is reached with ``by = "ssh"`` instead::

    pkg install openssh python && sshd        in Termux, with your public key in ~/.ssh/authorized_keys
    adb forward tcp:8022 tcp:8022             here; then host = "localhost", port = 8022

Transfers go through the same agent as those of `edgekit.reach.ssh`. ``adb`` has connections of its own, one a call.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import InputError, Shortfall
from edgekit.reach import _remote
from edgekit.reach._remote import Broken, Call

if TYPE_CHECKING:
    from edgekit.device import Device

APP = "com.termux"
_FILES = f"/data/data/{APP}/files"
_ENVIRONMENT = {
    "HOME": f"{_FILES}/home",
    "PREFIX": f"{_FILES}/usr",
    "PATH": f"{_FILES}/usr/bin:/system/bin",
    "LD_LIBRARY_PATH": f"{_FILES}/usr/lib",
    "TMPDIR": f"{_FILES}/usr/tmp",
    "LANG": "C.UTF-8",
}
TRIES = 3
_runtimes: dict[str | None, str] = {}
"""Where `edgekit.runtime` is on a phone, by serial number, once this process has sent it."""
_lock = threading.Lock()


def start(argv: Sequence[str], device: Device) -> subprocess.Popen[str]:
    """Start Python on the device, with ``edgekit.runtime`` importable; see `edgekit.reach.local.start`.

    Raises:
        InputError: there is no adb here.
        Shortfall: the phone cannot be reached or used; the message says why and what to do.
    """
    with _lock:
        if device.reach.host not in _runtimes:
            _runtimes[device.reach.host] = send(_remote.runtime(), device)
        runtime = _runtimes[device.reach.host]
    return subprocess.Popen(
        _command(device, "run", runtime, *argv),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    )


def send(file: Path, device: Device) -> str:
    """Have a file on the device; see `edgekit.reach.ssh.send`."""
    for left in reversed(range(TRIES)):
        try:
            return _remote.receive(partial(_call, device), file)
        except Broken as broken:
            if not left:
                raise Shortfall(str(broken)) from None
    raise AssertionError


def clean(device: Device) -> None:
    """Remove every file that was sent there."""
    call = _call(device, ("clean",))
    try:
        call.answer()
    except Broken as broken:
        raise Shortfall(str(broken)) from None
    finally:
        call.close()
        with _lock:
            _runtimes.pop(device.reach.host, None)


def explain(status: int, said: Sequence[str], device: Device) -> str:
    """Why a process on the device ended, from adb's exit status and its last words."""
    text = "\n".join(said)
    if "unauthorized" in text:
        return "the phone does not trust this machine: unlock it, and allow USB debugging"
    if "adb: " in text and any(word in text for word in ("no devices", "not found", "offline")):
        return f"{said[-1]}: connect the phone, and switch on USB debugging (Settings, Developer options)"
    if "unknown package" in text:
        return f"{APP} is not installed: take Termux from its GitHub releases, and in it: pkg install python"
    if "not debuggable" in text:
        return (
            'this build of Termux lets nobody in: take the one from its GitHub releases, or reach it by = "ssh" '
            "(pkg install openssh && sshd in Termux; adb forward tcp:8022 tcp:8022; host localhost, port 8022)"
        )
    if status in (126, 127):
        return f'there is no usable "{device.reach.python}" in Termux: pkg install python python-numpy'
    return _remote.obituary(status, said, device.reach.python)


def _call(device: Device, words: Sequence[str]) -> Call:
    return Call(_command(device, *words), lambda status, said: explain(status, said, device))


def _command(device: Device, *words: str) -> list[str]:
    if shutil.which("adb") is None:
        raise InputError('reach.by = "adb" needs adb: apt-get install adb')
    serial = ["-s", device.reach.host] if device.reach.host else []
    settings = [f"{key}={value}" for key, value in _ENVIRONMENT.items()]
    inside = "exec " + _remote.agent(device.reach.python, *words)
    line = shlex.join(["run-as", APP, "/system/bin/env", *settings, "/system/bin/sh", "-c", inside])
    return ["adb", *serial, "shell", "-T", line]
