"""ONNX Runtime's telemetry has a thread, which looks up an address every few seconds: not beside what is measured."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.device.file import Device
from edgekit.reach.ways import local, ssh
from tests.sshd import Board, board, boards
from tests.test_choose import chain

__all__ = ["board", "boards"]
VARIABLE = "ORT_DISABLE_TELEMETRY"
CODE = f"""
import os, sys
from edgekit.runtime import engine_menu
before = os.environ.get({VARIABLE!r})
module = engine_menu.engine("onnxruntime")
idle = len(os.listdir("/proc/self/task"))
session = module.load(sys.argv[1])
session.run(__import__("numpy").zeros(session.input.shape, "float32"))
print(before, os.environ.get({VARIABLE!r}), len(os.listdir("/proc/self/task")) - idle)
"""
pytestmark = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    return str(chain(tmp_path / "a.onnx", 2))


def said(process: subprocess.Popen[str]) -> str:
    out, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    return out.strip()


def test_the_engine_starts_none(file: str) -> None:
    for given, wanted in ((None, "1"), ("0", "0")):  # who sets the variable decides
        environment = {
            **os.environ,
            **({VARIABLE: given} if given else {}),
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        answer = subprocess.run(
            [sys.executable, "-c", CODE, file], env=environment, capture_output=True, text=True, check=True
        )
        before, after, threads = answer.stdout.split()
        assert (before, after) == (str(given), wanted)
        assert threads == "0" or given


def test_neither_does_what_is_started_here_or_over_ssh(file: str, board: Board) -> None:
    assert said(local.start(["-c", CODE, file], Device(name="host"))) == "1 1 0"
    device = board.device()
    assert said(ssh.start(["-c", CODE, ssh.send(Path(file), device)], device)).startswith("1 1 ")
