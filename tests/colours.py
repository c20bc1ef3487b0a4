"""A tiny task for the training tests: noisy coloured squares and a network of one convolution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgekit.config.recipe import Recipe
from edgekit.types import Index, Sample, Split

NET = """
from torch import nn

def build(num_classes, dropout=0.2):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(8, num_classes),
    )
"""
COLOURS = ((200, 60, 60), (60, 200, 60), (60, 60, 200))
LABELS = ("red", "green", "blue")


def write_images(folder: Path) -> Index:
    """Noisy red, green and blue squares, 40 / 10 / 10 a class."""
    (folder / "net.py").write_text(NET)
    random = np.random.default_rng(0)
    samples = []
    parts: tuple[tuple[Split, int], ...] = (("train", 40), ("val", 10), ("test", 10))
    for split, count in parts:
        for label, colour in enumerate(COLOURS):
            for number in range(count):
                pixels = random.normal(colour, 70, (20, 20, 3)).clip(0, 255).astype(np.uint8)
                path = f"{split}-{label}-{number}.png"
                Image.fromarray(pixels).save(folder / path)
                samples.append(Sample(path, label, split, f"{split}{label}{number}"))
    return Index(str(folder), LABELS, tuple(samples))


def make_recipe(**section: Any) -> Recipe:
    settings = {"epochs": 4, "batch": 16, "lr": 0.02, "weight_decay": 0.01, **section}
    return Recipe.model_validate(
        {
            "name": "colours",
            "model": {"name": "net.py:build", "weights": "none"},
            "data": {"source": "image_folder", "input": 16},
            "train": settings,
        }
    )
