"""What is said where a GPU's memory is full. There is no GPU here: a network that refuses large batches stands in."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from edgekit.cli.main import cli

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
