"""What is said where a GPU's memory is full; a network that refuses large batches stands in for it."""

from __future__ import annotations

import re
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from edgekit.cli.main import cli
from edgekit.config.recipe import QuantizeSection
from edgekit.console import Console
from edgekit.data.dataset import ImageSet
from edgekit.errors import Shortfall
from edgekit.quantize import ptq
from edgekit.train import qat
from tests import digits
from tests.support import environment

RECIPE = """
[model]
name    = "net.py:build"
weights = "none"
[data]
source = "digits"
input  = 16
[train]
epochs = 1
frozen = 0
"""
NET = """
import weakref

import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(392, classes)
        self.laid_out = lambda: None

    def forward(self, images):
        values = self.body(images)
        if self.training and (len(images) > ROOM or self.laid_out() is not None):
            self.laid_out = weakref.ref(values)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.head(values)

def build(num_classes):
    return Net(num_classes)
"""


@pytest.mark.parametrize("command", ["train", "find-lr"])
@pytest.mark.parametrize(
    ("room", "batch", "accumulate", "said"),
    [
        (20, 64, 1, "but 16: set that and train.accumulate = 4, for steps of 64 images"),
        (12, 50, 3, "but 12: set that and train.accumulate = 12, for steps of 144 images"),
        (1, 64, 1, "not even 2 images fit: lower data.input, or take a smaller network"),
        (1, 2, 1, "not even 2 images fit: lower data.input, or take a smaller network"),
    ],
)
def test_the_batch_that_fits_is_found_and_said(
    command: str, room: int, batch: int, accumulate: int, said: str, tmp_path: Path
) -> None:
    """What a failed pass had laid out has to be free before a smaller batch is tried: the network looks."""
    (tmp_path / "net.py").write_text(NET.replace("ROOM", str(room)))
    recipe = tmp_path / "net.toml"
    recipe.write_text(f"{RECIPE}batch = {batch}\naccumulate = {accumulate}\n")
    result = CliRunner().invoke(cli, [command, str(recipe), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1, result.output
    assert f"the GPU's memory does not hold train.batch = {batch}" in result.stderr
    assert said in result.stderr
    assert not list(tmp_path.glob("out/**/model.safetensors"))


def test_several_processes_find_the_batch_that_fits_each_on_its_own(tmp_path: Path) -> None:
    code, said = of_two("20", tmp_path)
    assert code == 1
    assert "edgekit: train: the GPU's memory does not hold train.batch = 64, but 32: set that and train." in said
    assert "train.accumulate = 2, for steps of 64 images" in said
    assert said.count("memory") == 1
    assert "Traceback" not in said


def test_a_process_that_alone_has_no_room_says_so_itself(tmp_path: Path) -> None:
    code, said = of_two('(20 if __import__("os").environ["RANK"] == "1" else 64)', tmp_path, "--timeout", "20")
    assert code == 1
    assert "edgekit: rank 1 of 2: train: the GPU's memory does not hold train.batch = 64, but 32: set that and " in said
    assert said.count("edgekit: ") == 1
    assert "Traceback" not in said


def of_two(room: str, folder: Path, *options: str) -> tuple[int, str]:
    """Exit code and messages of a training in two processes, with 32 images of a batch each."""
    (folder / "net.py").write_text(NET.replace("ROOM", room))
    recipe = folder / "net.toml"
    recipe.write_text(f"{RECIPE}batch = 64\n")
    words = ["train", str(recipe), "--out", str(folder / "out"), "--processes", "2", *options]
    command = [sys.executable, "-m", "edgekit", *words]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


class Teacher(nn.Module):
    """Answers for at most `room` images; it is not copied while an earlier copy is left."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.copies: list[weakref.ref[Teacher]] = []

    def __deepcopy__(self, memo: object) -> Teacher:
        assert not [copied for copied in self.copies if copied() is not None], "a failed training is still in memory"
        made = Teacher(self.room)
        self.copies.append(weakref.ref(made))
        return made

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.zeros(len(images), 10)


@pytest.mark.parametrize(
    ("room", "said"),
    [
        (9, "quantize.qat: the GPU's memory does not hold quantize.qat.batch = 32, but 8: set that"),
        (0, "quantize.qat: the GPU's memory does not hold quantize.qat.batch = 32, nor a single image: lower data.inp"),
    ],
)
def test_quantization_aware_training_says_which_batch_fits(
    room: int, said: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = digits.digits(tmp_path_factory)
    section = QuantizeSection.model_validate({"method": "qat", "qat": {"epochs": 1, "batch": 32}})
    start = ptq.quantize(data.module, digits.SIZE, data.images(), digits.PIXELS, QuantizeSection()).program.module()
    images = ImageSet(data.index, data.root, "train", digits.SPEC)
    with pytest.raises(Shortfall, match=re.escape(said)):
        qat.train(
            data.module,
            digits.SIZE,
            start,
            images,
            None,
            digits.PIXELS,
            section,
            Console(quiet=True),
            None,
            Teacher(room),
        )
