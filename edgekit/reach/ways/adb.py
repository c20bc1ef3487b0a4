"""An Android phone on a cable: the Python of the Termux app, started with ``adb shell run-as``.

``run-as`` works only with debuggable apps. Termux from its GitHub releases is one; the F-Droid build is not, and is
reached with ``by = "ssh"`` instead::

    pkg install openssh python && sshd        in Termux, with your public key in ~/.ssh/authorized_keys
    adb forward tcp:8022 tcp:8022             here; then host = "localhost", port = 8022

Transfers use the same agent as over ssh. ``adb`` opens a new connection for each call.

With `reach.benchmark` none of this is needed: TFLite's program ``benchmark_model`` times .tflite files, or ExecuTorch's
``executor_runner`` .pte files, in Android's own shell (`edgekit.reach.adb_worker`), and what needs Python there
(accuracy, golden vectors, operators, end to end) is not possible. `WHERE` of `edgekit.reach.benchmark_model` and
`edgekit.reach.executor_runner` says where to get them.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from edgekit.errors import Shortfall
from edgekit.measurements import Kind
from edgekit.reach import adb_phone, adb_shell, adb_worker, programs, remote
from edgekit.reach.port import Target
from edgekit.reach.remote import Broken, Call

KIND: Kind = "measured"
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
_programs: dict[tuple[str | None, str], tuple[str, str]] = {}
"""Path on a phone and version of `reach.benchmark`, by serial number and `reach.benchmark`."""
_models: dict[str, str] = {}
"""Local path of each file, by its path on phones (named by its hash)."""
_lock = threading.Lock()


def start(argv: Sequence[str], device: Target) -> subprocess.Popen[str]:
    """Start Python on the device, with ``edgekit.runtime`` importable; see `edgekit.reach.port.Reach.start`.

    Raises:
        InputError: adb is not installed on this machine.
        Shortfall: the phone cannot be reached or used; the message says why and what to do.
    """
    if device.reach.benchmark is not None:
        return _worker(argv, device)
    with _lock:
        if device.reach.host not in _runtimes:
            _runtimes[device.reach.host] = send(remote.runtime(), device)
        runtime = _runtimes[device.reach.host]
    return subprocess.Popen(
        _command(device, "run", runtime, *argv),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    )


def send(file: Path, device: Target) -> str:
    """Send a file to the device; see `edgekit.reach.ways.ssh.send`."""
    if device.reach.benchmark is not None:
        if (
            file.suffix != programs.named(device.run.engines).SUFFIX
        ):  # nothing there can read it, and the worker will say so
            return str(file)
        path = adb_phone.send(file, device.reach.host)
        _models[path] = str(file.resolve())
        return path
    for left in reversed(range(TRIES)):
        try:
            return remote.receive(partial(_call, device), file)
        except Broken as broken:
            if not left:
                raise Shortfall(str(broken)) from None
    raise AssertionError


def clean(device: Target) -> None:
    """Remove every file that was sent to the device."""
    if device.reach.benchmark is not None:
        with _lock:
            _programs.clear()
        return adb_phone.clean(device.reach.host)
    call = _call(device, ("clean",))
    try:
        call.answer()
    except Broken as broken:
        raise Shortfall(str(broken)) from None
    finally:
        call.close()
        with _lock:
            _runtimes.pop(device.reach.host, None)


def explain(status: int, said: Sequence[str], device: Target) -> str:
    """Why a process on the device ended, from adb's exit status and its last lines."""
    text = "\n".join(said)
    if device.reach.benchmark is not None:
        return said[-1] if status == adb_worker.LOST and said else f"it ended with status {status}: {text[-200:]}"
    by_adb = any(line.startswith(("adb: ", "error: ")) for line in said)
    if "unauthorized" in text or (by_adb and any(word in text for word in ("no devices", "not found", "offline"))):
        return adb_shell.trouble(said[-1] if "unauthorized" not in text else text)
    if "unknown package" in text:
        return f"{APP} is not installed: install Termux from its GitHub releases and, in it, run: pkg install python"
    if "not debuggable" in text:
        return (
            'this build of Termux is not debuggable: install the one from its GitHub releases, or use by = "ssh" '
            "(pkg install openssh && sshd in Termux; adb forward tcp:8022 tcp:8022; host localhost, port 8022)"
        )
    if status in (126, 127):
        return f'there is no usable "{device.reach.python}" in Termux: pkg install python python-numpy'
    return remote.obituary(status, said, device.reach.python)


def _call(device: Target, words: Sequence[str]) -> Call:
    return Call(_command(device, *words), lambda status, said: explain(status, said, device))


def _command(device: Target, *words: str) -> list[str]:
    start = adb_shell.adb(device.reach.host)
    settings = [f"{key}={value}" for key, value in _ENVIRONMENT.items()]
    inside = "exec " + remote.agent(device.reach.python, *words)
    line = shlex.join(["run-as", APP, "/system/bin/env", *settings, "/system/bin/sh", "-c", inside])
    return [*start, "shell", "-T", line]


def _worker(argv: Sequence[str], device: Target) -> subprocess.Popen[str]:
    """A process on this machine that answers as Python on the phone would."""
    serial, given = device.reach.host, str(device.reach.benchmark)
    program = programs.named(device.run.engines)
    with _lock:
        if (serial, given) not in _programs:
            _programs[serial, given] = adb_phone.program(given, serial, program.WHERE)
        binary, version = _programs[serial, given]
    settings = {
        "program": program.NAME,
        "serial": serial,
        "binary": binary,
        "version": version,
        "flags": device.reach.flags,
        "allow_fallback": device.run.allow_fallback,
        "files": _models,
    }
    root = str(Path(__file__).parents[3])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-m", "edgekit.reach.adb_worker", json.dumps(settings), *argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
        encoding="utf-8",
        errors="replace",
    )
