"""Shared by the benchmarks: networks with random weights on the scale of a trained net's, images, settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgekit import models
from edgekit.types import ModelSpec

LEVELS = (torch.arange(256) / 255 - 0.5) / 0.5
"""Every value an 8-bit pixel can take with mean and standard deviation 1/2."""
SCRATCH = (
    "model.weights=none",
    "model.options={}",
    "data.input=128",
    "train.frozen=0",
    "train.batch_norm=train",
    "train.lr=2e-3",
    "train.ema=0.98",
)
"""Settings that train the recipe `trashnet` on a network without weights."""


def images(count: int, size: int, seed: int = 0) -> Tensor:
    """Random images on the pixel grid: float32 (count, 3, size, size), smooth with some noise."""
    generator = torch.Generator().manual_seed(seed)
    fine = torch.rand(count, 3, size, size, generator=generator)
    coarse = nn.functional.interpolate(torch.rand(count, 3, 4, 4, generator=generator), size, mode="bilinear")
    return LEVELS[((0.3 * fine + 0.7 * coarse) * 255).round().long()]


def network(
    name: str, size: int, classes: int = 1000, options: dict[str, Any] | None = None, seen: Tensor | None = None
) -> nn.Module:
    """A net of timm or torchvision in eval mode: with random weights and batch-norm statistics of images.

    The images are `seen`, else random ones. Far from them a deep net amplifies the noise of float sums.
    """
    torch.manual_seed(0)
    module = models.build(ModelSpec(name, classes, options or {}), Path())
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, -0.5, 0.5)
            part.momentum = None  # the mean over all batches so far
    with torch.no_grad():
        module.train()(images(8, size, seed=99) if seen is None else seen)
    return module.eval()
