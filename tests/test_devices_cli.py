"""``edgekit devices``, and the commands that profile, over a real sshd."""

from __future__ import annotations

import json
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from edgekit.device import file as device_file
from edgekit.device import probe
from edgekit.profile.run import profile
from edgekit.reach.ways import adb
from edgekit.runtime import machine
from tests.sshd import Board, board, boards
from tests.support import complaint, edgekit
from tests.test_profile import QUIET, SHORT, save_chain

__all__ = ["board", "boards"]


def options(board: Board) -> tuple[str, ...]:
    return ("127.0.0.1", "--port", str(board.port), "--config", str(board.config), "--python", sys.executable)


def test_probe_writes_a_file_that_check_accepts(board: Board, tmp_path: Path) -> None:
    answer = edgekit("devices", "probe", *options(board), "--name", "pi", cwd=tmp_path)
    assert "pi.toml: written" in answer.stdout
    found = device_file.load(tmp_path / "pi.toml")
    facts = machine.probe()
    assert found.arch == facts["arch"]
    assert found.reach.port == board.port
    assert (found.facts.cpu, found.facts.cores, found.facts.features) == (
        facts["cpu"],
        facts["cores"],
        facts["features"],
    )
    assert found.facts.engines["onnxruntime"] == facts["engines"]["onnxruntime"]
    assert found.run.threads == sorted({1, facts["cores"]})
    checked = json.loads(edgekit("devices", "check", "pi.toml", "--json", cwd=tmp_path).stdout)
    assert checked["ready"] is True
    assert checked["facts"]["python"] == sys.version.split()[0]
    assert (board.cache / "files").exists()
    assert json.loads(edgekit("devices", "clean", "pi.toml", "--json", cwd=tmp_path).stdout)["clean"] is True
    assert not (board.cache / "files").exists()
    message = complaint("devices", "probe", *options(board), "--name", "pi", code=2, cwd=tmp_path)
    assert message.startswith("pi.toml: already exists")
    shown = edgekit("devices", "show", "pi.toml", cwd=tmp_path).stdout
    assert tomllib.loads(shown) == tomllib.loads((tmp_path / "pi.toml").read_text())


def test_probe_reads_this_machine(tmp_path: Path) -> None:
    answer = json.loads(edgekit("devices", "probe", "--by", "local", "--json", cwd=tmp_path).stdout)
    assert answer["facts"]["hostname"] == os.uname().nodename
    assert device_file.load(tmp_path / answer["path"]).reach.by == "local"


def test_probe_host_is_this_machine(tmp_path: Path) -> None:
    answer = json.loads(edgekit("devices", "probe", "host", "--name", "desk", "--json", cwd=tmp_path).stdout)
    assert answer["facts"]["hostname"] == os.uname().nodename
    assert device_file.load(tmp_path / "desk.toml").reach.by == "local"


@pytest.mark.parametrize("word", ["raspberry-pi-5", "mine.toml"])
def test_probe_takes_an_address_not_a_device_file(tmp_path: Path, word: str) -> None:
    message = complaint("devices", "probe", word, code=2, cwd=tmp_path)
    assert message.startswith(f'"{word}" is a device file, not an address: edgekit devices check {word} connects')


def test_add_writes_a_file_without_connecting(tmp_path: Path) -> None:
    words = ("--host", "pi@nowhere.invalid", "--engine", "litert", "--threads", "1", "--threads", "4")
    assert json.loads(edgekit("devices", "add", "garage", *words, "--json", cwd=tmp_path).stdout) == {
        "path": "garage.toml"
    }
    found = device_file.load(tmp_path / "garage.toml")
    assert (found.reach.by, found.reach.host, found.run.engines) == ("ssh", "pi@nowhere.invalid", ["litert"])
    assert found.run.threads == [1, 4]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("add", "x", "--host", "-oProxyCommand=reboot"),
            'reach.host = "-oProxyCommand=reboot": a host must neither start',
        ),
        (("add", "x", "--by", "pigeon"), 'reach.by = "pigeon": no such choice'),
        (("add", "x", "--host", "pi", "--engine", "lite"), 'run.engines[0] = "lite": no such choice; did you mean'),
        (("check", "raspberry-pi-6"), '"raspberry-pi-6": no such device; did you mean'),
        (("show", "gone.toml"), "gone.toml: no such device file"),
    ],
)
def test_a_wrong_word_is_refused(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    assert message in complaint("devices", *words, code=2, cwd=tmp_path)
    assert not list(tmp_path.iterdir())


def test_check_says_why_a_device_cannot_be_reached(board: Board, tmp_path: Path) -> None:
    board.stop()
    (tmp_path / "pi.toml").write_text(probe.toml("pi", board.reach(), None, {}))
    message = complaint("devices", "check", "pi.toml", code=1, cwd=tmp_path)
    assert message.startswith("pi: cannot be reached by ssh: ")
    assert "Connection refused" in message


@pytest.mark.parametrize("managed", [False, True])
def test_check_gives_the_command_for_what_is_missing(board: Board, managed: bool) -> None:
    pi = board.device(engines=["litert", "onnxruntime"])
    facts = {**machine.probe(), "engines": {"litert": None, "onnxruntime": "1.0"}, "numpy": None, "managed": managed}
    command = probe.install(pi, facts, ["numpy", "ai-edge-litert"])
    assert command.startswith(f"ssh -F {board.config} -p {board.port} 127.0.0.1 ")
    assert "pip install numpy ai-edge-litert" in command
    assert ("-m venv ~/edgekit" in command) is managed


def test_check_exits_1_where_an_engine_is_missing(board: Board, tmp_path: Path) -> None:
    facts = machine.probe()
    missing = [name for name in ("litert", "onnxruntime", "tflite_runtime") if not facts["engines"][name]]
    if not missing:
        pytest.skip("all engines are installed")
    text = probe.toml("pi", board.reach(), None, {"engines": missing, "threads": [256]})
    (tmp_path / "pi.toml").write_text(text)
    answer = edgekit("devices", "check", "pi.toml", code=1, cwd=tmp_path)
    assert f"pip install {facts['packages'][missing[0]]}" in answer.stderr
    assert "256 threads asked for" in answer.stderr
    assert "not installed (required)" in answer.stdout


def test_check_asks_for_the_provider(tmp_path: Path) -> None:
    run = {"engines": ["onnxruntime"], "providers": {"onnxruntime": "tensorrt"}}
    here = device_file.Device.model_validate({"name": "gpu", "run": run})
    (problem,) = probe.check(here).problems
    assert "CPUExecutionProvider" in problem
    assert problem.endswith("not tensorrt")


def test_toml_holds_any_text() -> None:
    odd = {"by": "ssh", "host": 'pi"\\', "python": "/a b/\u00fc\"\\\x7f\t'python"}
    assert tomllib.loads(probe.toml('a"b\\', odd, None, {}))["reach"] == odd


# The commands that measure.


def test_profile_keeps_what_it_has_when_a_device_is_lost(copied: Path, tmp_path: Path, board: Board) -> None:
    short = '[run]\nengines = ["onnxruntime"]\nseconds = 0.02\nwarmup = 1\nrounds = 1\n'
    here, there = tmp_path / "here.toml", tmp_path / "there.toml"
    here.write_text(f'name = "here"\n{short}')
    reach = "\n".join(f"{key} = {json.dumps(value)}" for key, value in board.reach().items())
    there.write_text(f'name = "there"\n[reach]\n{reach}\n{short}')
    words = ("report", copied, "--set", "profile.accuracy_images=10000", "--device", here, "--device", there)
    board.stop()
    answer = edgekit(*words, code=1)
    last = answer.stderr.splitlines()[-1]
    assert last.startswith("edgekit: there: 2 not measured: cannot be reached by ssh: ")
    assert last.endswith("run the same command again to measure what is missing")
    assert "here: " in answer.stdout  # its verdict
    report = (copied / "10-report" / "report.json").read_text()
    first = json.loads(report)
    assert {row["device"] for row in first["latency"]} == {"here"}
    assert {row["device"] for row in first["failures"]} == {"there"}

    board.start()
    answer = edgekit(*words)
    assert "here: 2 of 2 measured before" in answer.stderr
    second = json.loads((copied / "10-report" / "report.json").read_text())
    assert second["failures"] == []
    assert {row["device"] for row in second["latency"]} == {"here", "there"}
    assert [row for row in second["latency"] if row["device"] == "here"] == first["latency"]

    # All test images ran there, in the very engine that verified the files here.
    keys = ("artifact", "engine", "images", "top1", "agreement")
    rows = [[row[key] for key in keys] for row in second["accuracy"] if row["device"] == "there"]
    verified = [row for row in second["accuracy"] if row["device"] == "host" and row["engine"] == "onnxruntime"]
    assert rows == [[row[key] for key in keys] for row in verified]
    same = [row for row in second["accuracy"] if row["device"] == "there"]
    assert {(row["agreement_reference"], row["max_difference"], row["passed"]) for row in same} == {(1.0, 0.0, True)}

    assert "profile: unchanged" in edgekit(*words).stderr


# A phone: only a stand-in for adb here.

FAKE_ADB = """#!/bin/sh
if [ "$1" = -s ]; then
    [ "$2" = phone ] || { echo "adb: device '$2' not found" >&2; exit 1; }
    shift 2
fi
[ "$1 $2" = "shell -T" ] || { echo "adb: unknown command $*" >&2; exit 1; }
shift 2
exec /bin/sh -c "$*"   # as adb does: the words, joined, are a line for the phone's shell
"""
FAKE_RUN_AS = """#!/bin/sh
[ -z "$RUN_AS" ] || { echo "run-as: $RUN_AS" >&2; exit 1; }
shift
while [ "$1" != /system/bin/sh ]; do shift; done   # the environment of Termux
shift 2
exec /bin/sh -c "$1"
"""


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    for name, script in (("adb", FAKE_ADB), ("run-as", FAKE_RUN_AS)):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(adb, "_runtimes", {})
    return {"by": "adb", "host": "phone", "python": sys.executable}


def test_profile_over_adb(phone: dict[str, Any], tmp_path: Path) -> None:
    save_chain(tmp_path / "short.onnx", 2)
    run = {"engines": ["onnxruntime"], "seconds": 0.02, "rounds": 1, "warmup": 0}
    device = device_file.Device.model_validate({"name": "phone", "reach": phone, "run": run})
    (row,) = profile([SHORT], tmp_path, {"phone": device}, QUIET).timings
    assert row.device == "phone"
    kept = tmp_path / "home" / ".cache" / "edgekit" / "files"
    assert len(list(kept.iterdir())) == 2
    adb.clean(device)
    assert not kept.exists()


@pytest.mark.parametrize(
    ("changes", "said", "message"),
    [
        ({"host": "other"}, "", "enable USB debugging"),
        ({}, "unknown package: com.termux", "com.termux is not installed"),
        ({}, "package not debuggable: com.termux", 'or use by = "ssh"'),
        ({"python": "/no/$(touch OOPS)"}, "", "pkg install python"),
    ],
)
def test_adb_says_what_it_needs(
    phone: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: Any, said: str, message: str
) -> None:
    monkeypatch.setenv("RUN_AS", said)
    device = device_file.Device.model_validate({"name": "phone", "reach": {**phone, **changes}})
    (problem,) = probe.check(device).problems
    assert problem.startswith("cannot be reached by adb: ")
    assert message in problem
    assert not list(tmp_path.rglob("OOPS"))
