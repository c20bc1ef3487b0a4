"""Devices over a real sshd on loopback."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.device import file as device_file
from edgekit.device.file import Device
from edgekit.errors import InputError, Shortfall
from edgekit.measurements import Failure, Profile
from edgekit.profile import _fleet
from edgekit.profile.run import profile
from edgekit.reach import remote
from edgekit.reach.ways import ssh
from tests.sshd import Board, Start, board, boards
from tests.test_profile import QUIET, SHORT, Recorder, artifact, host, save_chain

__all__ = ["board", "boards"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifacts")
    save_chain(folder / "short.onnx", 2)
    save_chain(folder / "long.onnx", 40)
    return folder


LONG = artifact("long", "long.onnx")


def run(device: Device, code: str, timeout: float = 30) -> str:
    """What a piece of Python prints there."""
    process = ssh.start(["-c", code], device)
    out, error = process.communicate(timeout=timeout)
    assert process.returncode == 0, error
    return out


def files(board: Board) -> list[str]:
    return sorted(path.name for path in (board.cache / "files").iterdir())


def test_start_runs_python_with_the_runtime_from_a_zip(board: Board) -> None:
    out = run(
        board.device(), "import edgekit.runtime as r, sys; print(r.__file__); print(sys.path[0]); print(sys.argv)"
    )
    package, path, argv = out.splitlines()
    assert package.startswith(str(board.cache))
    assert ".zip" in package
    assert path.endswith(".zip")
    assert argv == "['-c']"


def test_profile_over_ssh_gives_what_profile_here_gives(board: Board, folder: Path) -> None:
    result = profile([SHORT, LONG], folder, {"pi": board.device("pi")}, QUIET)
    assert [(row.artifact, row.device, row.kind) for row in result.timings] == [
        ("short", "pi", "measured"),
        ("long", "pi", "measured"),
    ]
    assert result.machines["pi"].python == sys.version.split()[0]
    # All that is left there: the two files and the runtime, each under the hash of its contents.
    assert len(files(board)) == 3
    ssh.clean(board.device())
    assert not (board.cache / "files").exists()


def test_one_connection_serves_all_processes(board: Board) -> None:
    for _ in range(3):
        run(board.device(), "print(1)")
    assert len(board.connections()) == 1
    assert board.log.count("Accepted publickey") == 1


def test_the_users_config_says_how_to_get_there(boards: Start) -> None:
    """A name that only the config knows, behind a jump host."""
    gate, inner = boards(), boards()
    known = gate.folder / "known_hosts"
    known.write_text(known.read_text() + (inner.folder / "known_hosts").read_text())
    hosts = (
        f"Host gate\n  HostName 127.0.0.1\n  Port {gate.port}\n  IdentityFile {gate.folder / 'user_key'}\n"
        f"Host inner\n  HostName 127.0.0.1\n  Port {inner.port}\n  ProxyJump gate\n"
        f"  IdentityFile {inner.folder / 'user_key'}\n"
    )
    config = gate.folder / "jump"
    config.write_text(hosts + gate.config.read_text().replace(f"  IdentityFile {gate.folder / 'user_key'}\n", ""))
    reach = {"host": "inner", "port": None, "config": str(config)}
    assert run(inner.device(reach=reach), "import os; print(os.environ['HOME'])") == f"{inner.folder / 'home'}\n"
    assert (gate.log.count("Accepted publickey"), inner.log.count("Accepted publickey")) == (1, 1)


def test_more_processes_at_once_than_sessions_in_a_connection(boards: Start) -> None:
    board = boards(MaxSessions="3")
    processes = [
        ssh.start(["-c", "import sys; print('up', flush=True); sys.stdin.read()"], board.device()) for _ in range(5)
    ]
    try:
        assert [process.stdout.readline() for process in processes if process.stdout] == ["up\n"] * 5
    finally:
        for process in processes:
            process.communicate()


def test_send_sends_an_unchanged_file_once(board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    write = remote.Call.write

    def spy(self: remote.Call, data: Any) -> None:
        sent.append(len(data.read()))
        data.seek(-sent[-1], os.SEEK_CUR)
        write(self, data)

    monkeypatch.setattr(remote.Call, "write", spy)
    file = tmp_path / "model.onnx"
    file.write_bytes(os.urandom(300_000))
    there = ssh.send(file, board.device())
    assert Path(there).read_bytes() == file.read_bytes()
    assert Path(there).suffix == ".onnx"
    ssh.close()  # as another process of edgekit, another day
    again = tmp_path / "the same under another name.onnx"
    again.write_bytes(file.read_bytes())
    assert ssh.send(again, board.device()) == there
    assert sent == [300_000, 0]


def test_send_goes_on_where_a_broken_transfer_ended(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "model.tflite"
    file.write_bytes(os.urandom(6_000_000))
    write = remote.Call.write
    offsets: list[int] = []

    def broken(self: remote.Call, data: Any) -> None:
        offsets.append(data.tell())
        if len(offsets) == 1:
            head = data.read(2_000_000)
            assert self.process.stdin is not None
            self.process.stdin.write(head)
            self.process.stdin.flush()
            wait_for(lambda: [p for p in (board.cache / "files").glob("*.part") if p.stat().st_size > 1e6])
            board.cut()
        write(self, data)

    monkeypatch.setattr(remote.Call, "write", broken)
    there = ssh.send(file, board.device())
    assert Path(there).read_bytes() == file.read_bytes()
    assert len(offsets) == 2
    assert offsets[0] == 0
    assert offsets[1] > 1e6
    assert files(board) == [Path(there).name]


def wait_for(condition: Any, seconds: float = 10) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def test_only_the_latest_files_stay(board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_AGENT", remote._AGENT.replace("KEPT = 64", "KEPT = 2"))
    names = []
    for number in (0, 1, 0, 2):
        file = tmp_path / f"{number}.onnx"
        file.write_bytes(bytes([number]))
        names.append(Path(ssh.send(file, board.device())).name)
    assert files(board) == sorted(names[2:])
    assert run(board.device(), "print(1)") == "1\n"  # the runtime, which is in use, stays
    ssh.send(file, board.device())
    assert run(board.device(), "print(2)") == "2\n"


def test_a_part_that_is_spoilt_is_never_used(board: Board, tmp_path: Path) -> None:
    file = tmp_path / "model.tflite"
    file.write_bytes(os.urandom(1000))
    there = Path(ssh.send(file, board.device()))
    ssh.close()
    there.unlink()
    there.with_name(there.name + ".part").write_bytes(b"x" * 500)
    with pytest.raises(Shortfall, match="the SHA-256 of the received file differs"):
        ssh.send(file, board.device())
    assert Path(ssh.send(file, board.device())).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    "name", ["$(touch OOPS)", "a;touch OOPS", "`touch OOPS`", "' touch OOPS '", "-rf", "a b\n.onnx"]
)
def test_names_mean_nothing_to_the_shell(board: Board, tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(name.encode())
    there = ssh.send(file, board.device())
    assert Path(there).read_bytes() == name.encode()
    argv = ["-c", "import sys; print(sys.argv[1:])", name, "$HOME", "*"]
    out, _ = ssh.start(argv, board.device()).communicate(timeout=30)
    assert out == f"{[name, '$HOME', '*']}\n"
    with pytest.raises(Shortfall, match="no usable"):
        ssh.start(["-c", ""], board.device(reach={"python": f"/nowhere/{name}"}))
    assert not list(board.folder.rglob("OOPS"))
    assert not list(tmp_path.rglob("OOPS"))


@pytest.mark.parametrize("host", ["-oProxyCommand=touch OOPS", "-F/dev/null", "pi; reboot", ""])
def test_a_host_that_is_an_option_is_refused(tmp_path: Path, host: str) -> None:
    file = tmp_path / "pi.toml"
    file.write_text(f'name = "pi"\n[reach]\nby = "ssh"\nhost = {json.dumps(host)}\n')
    with pytest.raises(InputError, match=r"reach\.host"):
        device_file.load(file)


def test_ssh_needs_a_host(tmp_path: Path) -> None:
    file = tmp_path / "pi.toml"
    file.write_text('name = "pi"\n[reach]\nby = "ssh"\n')
    with pytest.raises(InputError, match=r'by = "ssh" needs host = '):
        device_file.load(file)


# What can go wrong when it is reached.


def unreachable(device: Device, folder: Path) -> str:
    """The message of a profile that has only this device."""
    start = time.monotonic()
    with pytest.raises(Shortfall) as caught:
        profile([SHORT], folder, {"pi": device}, QUIET)
    assert time.monotonic() - start < 20
    message = str(caught.value)
    assert message.startswith("pi: cannot be reached by ssh: ")
    assert "\n" not in message
    return message


def test_a_closed_port(board: Board, folder: Path) -> None:
    board.stop()
    assert "Connection refused" in unreachable(board.device(), folder)


def test_no_answer_at_all(board: Board, folder: Path) -> None:
    board.daemon.send_signal(signal.SIGSTOP)
    try:
        message = unreachable(board.device(reach={"timeout": 1.0}), folder)
    finally:
        board.daemon.send_signal(signal.SIGCONT)
    assert "timed out" in message


def test_a_key_that_is_not_known_there(board: Board, folder: Path) -> None:
    (board.folder / "authorized_keys").write_text("")
    message = unreachable(board.device(), folder)
    assert "Permission denied (publickey)" in message
    assert "ssh-copy-id" in message


def test_a_host_key_that_has_changed_is_never_accepted(board: Board, folder: Path) -> None:
    known = board.folder / "known_hosts"
    other = (board.folder / "user_key.pub").read_text().split()[1]
    known.write_text(f"[127.0.0.1]:{board.port} ssh-ed25519 {other}\n")
    before = known.read_text()
    message = unreachable(board.device(), folder)
    assert "its host key has changed" in message
    assert f"ssh-keygen -R '[127.0.0.1]:{board.port}'" in message
    assert known.read_text() == before
    assert "Accepted" not in board.log


def test_a_host_key_that_nobody_has_seen_is_not_accepted(board: Board, folder: Path) -> None:
    (board.folder / "known_hosts").write_text("")
    message = unreachable(board.device(), folder)
    assert "its host key is not known yet: connect once by hand" in message
    assert (board.folder / "known_hosts").read_text() == ""


def test_no_python(board: Board, folder: Path) -> None:
    message = unreachable(board.device(reach={"python": "python9"}), folder)
    assert 'there is no usable "python9"' in message
    assert "apt-get install python3" in message


def test_a_python_that_is_too_old(board: Board, folder: Path) -> None:
    old = board.folder / "old python"
    old.write_text(
        f"#!{sys.executable}\nimport sys\nsys.version_info = (3, 7, 3)\nsource = sys.argv[2]\n"
        "sys.argv[:] = ['-c', *sys.argv[3:]]\nexec(compile(source, '-c', 'exec'))\n"
    )
    old.chmod(0o755)
    message = unreachable(board.device(reach={"python": str(old)}), folder)
    assert message.endswith("is Python 3.7.3; 3.9 or later is needed")


def test_a_shell_that_talks(board: Board, folder: Path) -> None:
    noisy = board.folder / "noisy"
    noisy.write_text(f'#!/bin/sh\necho Welcome to the board\nexec {shlex.quote(sys.executable)} "$@"\n')
    noisy.chmod(0o755)
    message = unreachable(board.device(reach={"python": str(noisy)}), folder)
    assert "it answered 'Welcome to the board'" in message


def test_an_engine_that_is_missing_there(board: Board, folder: Path) -> None:
    bare = board.folder / "bare"
    site = board.folder / "site"
    (site / "onnxruntime").mkdir(parents=True)
    (site / "onnxruntime" / "__init__.py").write_text("raise ImportError('not for this machine')")
    bare.write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(site))} exec {shlex.quote(sys.executable)} "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(Shortfall, match=r"pi: nothing was measured: onnxruntime cannot .* pip install onnxruntime"):
        profile([SHORT], folder, {"pi": board.device(reach={"python": str(bare)})}, QUIET)


def test_no_room_there(board: Board, folder: Path, tmp_path: Path) -> None:
    small = board.folder / "small"
    small.write_text(f'#!/bin/bash\nulimit -f 512; exec {shlex.quote(sys.executable)} "$@"\n')  # KiB
    small.chmod(0o755)
    (tmp_path / "large.onnx").write_bytes(os.urandom(2_000_000))
    (tmp_path / "short.onnx").write_bytes((folder / "short.onnx").read_bytes())
    device = board.device(reach={"python": str(small)})
    result = profile([artifact("large", "large.onnx"), SHORT], tmp_path, {"pi": device}, QUIET)
    assert [row.artifact for row in result.timings] == ["short"]
    (failure,) = lost(result)
    assert failure.reason.startswith("large.onnx (2.0 MB) cannot be sent: ")
    assert "File too large" in failure.reason or "No space left" in failure.reason
    assert len([name for name in files(board) if name.endswith(".onnx")]) == 1


def test_a_connection_that_is_cut_at_once(board: Board, folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            with suppress(OSError):
                while True:
                    server.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        message = unreachable(board.device(reach={"port": server.getsockname()[1]}), folder)
        server.shutdown(socket.SHUT_RDWR)
    assert "reset by peer" in message.lower() or "closed" in message.lower()


# What can go wrong later.


def lost(result: Profile) -> list[Failure]:
    assert all(failure.lost for failure in result.failures)
    return list(result.failures)


@pytest.mark.parametrize("step", [1, 3, 6])  # when one of two is open; in the first round; before the last answer
def test_a_connection_that_is_cut_costs_what_was_open(boards: Start, folder: Path, step: int, tmp_path: Path) -> None:
    weak, strong = boards(), boards()

    def cut(count: int) -> None:
        if sum("weak: " in done for done in recorder.steps) == step:
            weak.stop()

    recorder = Recorder(cut)
    devices = {"weak": weak.device("weak"), "strong": strong.device("strong")}
    result = profile([SHORT, LONG], folder, devices, recorder, tmp_path / "raw")
    assert [(row.device, row.artifact) for row in result.timings] == [("strong", "short"), ("strong", "long")]
    assert [(row.device, row.artifact) for row in lost(result)] == [("weak", "short"), ("weak", "long")]
    assert all("connection" in row.reason.lower() for row in result.failures)

    # The same command, once it is back: just what is missing.
    weak.start()
    recorder = Recorder()
    again = profile([SHORT, LONG], folder, devices, recorder, tmp_path / "raw")
    assert {done.split(":")[0] for done in recorder.steps} == {"weak"}
    assert len(again.timings) == 4
    assert again.failures == ()
    assert [row for row in again.timings if row.device == "strong"] == list(result.timings)


def test_a_device_that_hangs(board: Board, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "ALIVE", 1)
    monkeypatch.setattr(ssh, "MISSED", 1)

    def hang(count: int) -> None:
        for child in board.connections() if count == 1 else ():
            os.kill(child, signal.SIGSTOP)

    start = time.monotonic()
    with pytest.raises(Shortfall, match="pi: "):
        profile([SHORT], folder, {"pi": board.device(reach={"timeout": 1.0})}, Recorder(hang))
    assert time.monotonic() - start < 30


def test_a_program_that_hangs_ends_when_nobody_listens(board: Board) -> None:
    code = "import os, time; print(os.getpid(), flush=True)\nwhile True: time.sleep(60)"
    process = ssh.start(["-c", code], board.device())
    assert process.stdout is not None
    there = int(process.stdout.readline())
    os.kill(there, 0)
    process.kill()
    process.communicate()

    def gone() -> bool:
        try:
            os.kill(there, 0)
        except ProcessLookupError:
            return True
        return False

    wait_for(gone)


def test_a_program_whose_input_has_ended_goes_on(board: Board) -> None:
    assert run(board.device(), "import time; time.sleep(1.5); print('done')") == "done\n"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("\\x00\\xff garbage", "answered"),
        ("[1, 2]", "answered '[1, 2]'"),
        ("null", "answered 'null'"),
        ("{}", "version: field required"),
        ('{"version": "1", "provider": "p", "batch": 1, "load_ms": NaN, "first_ms": 1}', "load_ms: "),
        ('{"version": "1", "provider": "p", "batch": -3, "load_ms": 1, "first_ms": 1}', "batch: "),
        ("[" * 50_000, "answered '[[["),
    ],
)
def test_garbage_in_what_a_device_says(folder: Path, said: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.reach.ways import local

    start = local.start

    def babble(argv: Any, device: Device) -> subprocess.Popen[str]:
        if "edgekit.runtime.bench" in argv:
            code = f"import sys; sys.stdin.readline(); print({said!r}, flush=True); sys.stdin.read()"
            return start(["-c", code], device)
        return start(argv, device)

    monkeypatch.setattr(local, "start", babble)
    with pytest.raises(Shortfall) as caught:
        profile([SHORT], folder, {"pi": host()}, QUIET)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_profiles_of_one_device_wait_for_each_other(board: Board, folder: Path) -> None:
    says: list[str] = []

    class Listening(Recorder):
        def say(self, text: str) -> None:
            says.append(text)

    hold = "held = machine.hold(); print('held', flush=True); sys.stdin.read()"
    code = f"import sys; from edgekit.runtime import machine; {hold}"
    holder = ssh.start(["-c", code], board.device())
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    found: list[Profile] = []
    thread = threading.Thread(
        target=lambda: found.append(profile([SHORT], folder, {"pi": board.device()}, Listening()))
    )
    thread.start()
    wait_for(lambda: says)
    assert "waiting for another measurement" in says[0]
    assert thread.is_alive()
    holder.communicate()
    thread.join(30)
    assert len(found[0].timings) == 1


def test_an_error_of_one_device_ends_the_others(boards: Start, folder: Path) -> None:
    odd, slow = boards(), boards()
    wrong = odd.device().model_copy(update={"arch": "any"})
    devices = {
        "odd": Device.model_validate(
            {**wrong.model_dump(), "arch": "aarch64" if os.uname().machine == "x86_64" else "x86_64"}
        ),
        "slow": slow.device(seconds=60.0, rounds=1),
    }
    start = time.monotonic()
    with pytest.raises(InputError, match="odd: the device file says arch"):
        profile([SHORT], folder, devices, QUIET)
    assert time.monotonic() - start < 20


def test_an_interrupt_ends_what_runs_on_all_devices(
    boards: Start, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = {name: boards().device(seconds=60.0, rounds=1) for name in ("a", "b")}
    threading.Timer(1.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    start = time.monotonic()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a child of a background job would ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            profile([SHORT], folder, devices, QUIET)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - start < 1.5 + _fleet.PATIENCE


def test_clocks_that_jump_change_nothing(board: Board, folder: Path) -> None:
    """Wall clocks are read nowhere on the way; on the device they jump by years."""
    jumping = board.folder / "jumping"
    site = board.folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("import random, time\ntime.time = lambda: random.choice([0.0, 4e9])\n")
    jumping.write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(site))} exec {shlex.quote(sys.executable)} "$@"\n')
    jumping.chmod(0o755)
    result = profile([SHORT], folder, {"pi": board.device(reach={"python": str(jumping)})}, QUIET)
    assert 0 < np.max(result.timings[0].samples) < 1000
