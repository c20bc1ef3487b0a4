"""Training in several processes: real ones, which torchrun starts, against one."""

from __future__ import annotations

import copy
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from click.testing import CliRunner
from safetensors.torch import load_file
from torch import nn

from edgekit import models
from edgekit.cli.main import cli
from edgekit.train import crew, launch
from edgekit.train._state import LAST
from tests.support import environment

RECIPE = """
[model]
name    = "net.py:build"
weights = "none"
[data]
source = "digits"
input  = 16
[train]
epochs    = {epochs}
frozen    = 3
batch     = 100
lr        = 0.02
optimizer = "sgd"
augment   = ["random_crop"]
ema       = 0.9
"""
NET = """
from torch import nn

def build(num_classes):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU6(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, num_classes),
    )
"""


def recipe(folder: Path, epochs: int = 2) -> Path:
    (folder / "net.py").write_text(NET)
    path = folder / "net.toml"
    path.write_text(RECIPE.format(epochs=epochs))
    return path


def started(*words: str | Path, **variables: str) -> subprocess.Popen[str]:
    """A Python process with one thread, the first of a group of its own."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a child of a background job would ignore it
    try:
        return subprocess.Popen(
            [sys.executable, *map(str, words)],
            env={**environment(), "OMP_NUM_THREADS": "1", **variables},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        _, said = process.communicate(timeout=300)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, said


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
    return port


def weights(out: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(out / "2-train" / models.WEIGHTS)
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    code, said = ended(started("-m", "edgekit", "train", recipe(folder), "--out", folder / "run"))
    assert code == 0, said
    return folder / "run"


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(8, 5, 7, 9), (16, 4)])
def test_batch_norms_of_a_group_of_one_are_torchs_own(shape: tuple[int, ...], affine: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    norm = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(shape[1], affine=affine).train()
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    ours, values = copy.deepcopy(norm), torch.randn(shape) * 3 + 50
    gradient = torch.randn(shape)
    found = []
    store = dist.FileStore(str(tmp_path / "store"), 1)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        for part, forward in ((norm, norm), (ours, crew._Together(ours, crew.Crew()))):
            given = values.clone().requires_grad_()
            output = forward(given)
            output.backward(gradient)
            found.append([output, given.grad, *(each.grad for each in part.parameters()), *part.buffers()])
    finally:
        dist.destroy_process_group()
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_two_nodes_end_with_the_weights_of_one_process(alone: Path, tmp_path: Path) -> None:
    """Each node is a torchrun of its own; they meet at an address."""
    meeting = f"127.0.0.1:{free_port()}"
    words = ("-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d")
    nodes = [
        started(
            *words,
            "--rdzv-endpoint",
            meeting,
            "-m",
            "edgekit",
            "train",
            recipe(tmp_path),
            "--out",
            tmp_path / f"run{node}",
        )
        for node in range(2)
    ]
    for code, said in map(ended, nodes):
        assert code == 0, said
    (out,) = [path for path in tmp_path.glob("run*") if (path / "2-train").is_dir()]  # only the first process writes
    ours, theirs = weights(out), weights(alone)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-4)


def of_rank(process: subprocess.Popen[str], rank: int) -> int:
    """The process of one rank below a command."""
    return min(below(process, f"RANK={rank}"))  # the first one: those that it starts inherit the word


def below(process: subprocess.Popen[str], mark: str) -> list[int]:
    """Processes below a command that have a word on their command lines or in their environments."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes() + (path / "environ").read_bytes()
            if mark.encode() in words.split(b"\0") and process.pid in ancestors(int(path.name)):
                found.append(int(path.name))
        except OSError:  # it has ended meanwhile
            continue
    return found


def ancestors(pid: int) -> set[int]:
    found = set()
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        found.add(pid)
    return found


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


def test_a_rank_that_dies_costs_one_epoch(alone: Path, tmp_path: Path) -> None:
    process = started("-m", "edgekit", "train", recipe(tmp_path), "--out", tmp_path / "run", "--processes", "2")
    wait_for(tmp_path / "run" / ".2-train.partial" / LAST, process)
    os.kill(of_rank(process, 1), signal.SIGKILL)
    code, said = ended(process)
    assert code == 0, said
    assert "resuming after epoch" in said
    ours, theirs = weights(tmp_path / "run"), weights(alone)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-4)


def test_a_rank_that_hangs_is_named(tmp_path: Path) -> None:
    words = ("train", recipe(tmp_path, epochs=500), "--out", tmp_path / "run", "--processes", "2", "--timeout", "5")
    process = started("-m", "edgekit", *words)
    wait_for(tmp_path / "run" / ".2-train.partial" / LAST, process)
    os.kill(of_rank(process, 1), signal.SIGSTOP)
    code, said = ended(process)
    assert code == 1
    assert "train: rank 1 of 2 did not answer within 5 s: " in said
    assert "Traceback" not in said


def test_an_exit_code_reaches_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(launch.ENDING, raising=False)
    assert launch.leave(2) == 2
    monkeypatch.setenv(launch.ENDING, str(tmp_path / "code"))
    assert launch.leave(2) == 0  # otherwise torchrun would start all of them again
    assert (tmp_path / "code").read_text() == "2"


@pytest.mark.parametrize("way", ["SIGINT", "SIGTERM", "in the terminal"])
def test_an_interrupted_training_says_so_in_one_line_and_goes_on_later(way: str, alone: Path, tmp_path: Path) -> None:
    words = ("-m", "edgekit", "train", recipe(tmp_path), "--out", tmp_path / "run", "--processes", "2")
    process = started(*words)
    wait_for(tmp_path / "run" / ".2-train.partial" / LAST, process)
    ranks = [of_rank(process, rank) for rank in range(2)]
    if way == "in the terminal":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(getattr(signal, way))
    code, said = ended(process)
    assert code == 130
    assert said.rstrip().endswith("edgekit: interrupted; run the same command again to resume")
    assert said.count("edgekit: ") == 1
    assert not [word for word in ("Traceback", "Aborted", "signal", "torch") if word in said]
    assert not [rank for rank in ranks if Path(f"/proc/{rank}").exists()]
    if way != "in the terminal":
        return
    code, said = ended(started(*words))
    assert code == 0, said
    assert "resuming after epoch" in said
    ours, theirs = weights(tmp_path / "run"), weights(alone)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("moment", ["edgekit.train.torchrun", "RANK=1"])
def test_a_training_that_is_interrupted_while_processes_start_says_so_in_one_line(moment: str, tmp_path: Path) -> None:
    process = started("-m", "edgekit", "train", recipe(tmp_path), "--out", tmp_path / "run", "--processes", "2")
    while not below(process, moment):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    code, said = ended(process)
    assert code == 130
    assert said == "edgekit: interrupted; run the same command again to resume\n"


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_an_interruption_while_the_processes_are_just_being_started_is_not_lost(number: str) -> None:
    process = started("-c", JUST_STARTED.format(number=number))
    code, said = ended(process)
    assert code == 0, said
    assert said == ""


JUST_STARTED = """
import os, signal, subprocess
from edgekit.train import launch

class Interrupted(subprocess.Popen):
    def __init__(self, *words, **options):
        os.kill(os.getpid(), signal.{number})
        super().__init__(*words, **options)
        os.kill(os.getpid(), signal.{number})
        made.append(self)

made = []
launch.subprocess.Popen = Interrupted
try:
    launch.processes(2, ["--version"])
except KeyboardInterrupt:
    assert made[0].poll() is not None
else:
    raise AssertionError("went on")
"""


def test_torchrun_leaves_no_process_that_it_was_just_starting() -> None:
    code, said = ended(started("-c", SPAWNING))
    assert code == 0, said
    assert said == ""


SPAWNING = """
import os, signal, subprocess, sys
from edgekit.train import torchrun

class Interrupted(subprocess.Popen):
    def __init__(self, *words, **options):
        super().__init__(*words, **options)
        if "sleep" in str((words, options)):
            made.append(self.pid)
            os.kill(os.getpid(), signal.SIGTERM)

made = []
subprocess.Popen = Interrupted
sys.argv[1:] = "--standalone --nproc-per-node 2 --signals-to-handle SIGHUP --no-python sleep 100".split()
code = None
try:
    torchrun.main()
except SystemExit as ending:
    code = ending.code
assert code == 130
(sleeping,) = made
try:
    assert os.waitpid(sleeping, 0)[1] in (signal.SIGKILL, signal.SIGTERM)
except ChildProcessError:  # it has been waited for
    pass
"""


def test_a_process_that_starts_after_the_end_of_the_command_ends_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(launch.ENDING, str(tmp_path / "gone" / "code"))
    with pytest.raises(SystemExit, match="130"):
        launch.enrol(1)


def test_ctrl_c_before_a_command_does_anything_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "launched", interrupted)
    result = CliRunner().invoke(cli, ["train", "digits"])
    assert result.exit_code == 130
    assert result.stderr == "edgekit: interrupted; run the same command again to resume\n"
