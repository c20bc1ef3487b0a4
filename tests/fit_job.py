"""A search that takes seconds: a small net on digits, in one engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgekit.config.recipe import Recipe
from edgekit.device.file import Device
from edgekit.pipeline.run import Job

NETWORK = """
from torch import nn

from tests import nets


class Residual(nn.Module):
    def __init__(self, part):
        super().__init__()
        self.part = part

    def forward(self, x):
        return x + self.part(x)


def make(num_classes):
    return nn.Sequential(
        nets.conv(3, 32, 3, nn.ReLU, stride=2),
        nets.conv(32, 128, 1, nn.ReLU),
        nets.conv(128, 128, 3, nn.ReLU, stride=2, groups=128),
        nets.conv(128, 128, 3, nn.ReLU, stride=2),
        Residual(nets.conv(128, 128, 3)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, num_classes),
    )
"""
"""Wide enough for channels to cost more than what every inference costs."""


def make(folder: Path, devices: Mapping[str, Device]) -> Job:
    """A search in a folder, which gets the network's file; its budget is one that every network meets."""
    (folder / "net.py").write_text(NETWORK)
    recipe = Recipe.model_validate(
        {
            "name": "small",
            "model": {"name": "net.py:make", "weights": "none"},
            "data": {"source": "digits", "input": 32},
            "train": {"epochs": 2, "lr": 5e-3, "batch": 64},
            "prune": {"macs": 0.5, "recover": 2, "lr": 5e-3, "round_to": 8, "steps": 2},
            "quantize": {"calibration": 32, "sensitivity": False, "max_drop": 100.0, "rescue": []},
            "export": {"formats": ["tflite"]},
            "verify": {"images": 50},
            "fit": {"max_ms": 1000.0, "max_drop": 100.0, "candidates": 2, "resolutions": []},
        }
    )
    return Job(recipe, folder, folder / "out", dict(devices))
