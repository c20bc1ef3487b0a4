"""A small network that is really trained, on real digits; made once for all tests."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgekit.config.recipe import DataSection
from edgekit.console import Console
from edgekit.data import index_file
from edgekit.data.dataset import ImageSet, batches
from edgekit.data.split import calibration
from edgekit.data.transforms import levels
from edgekit.quantize.calibration_images import Images
from edgekit.types import Index, InputSpec
from tests import nets

SIZE = 16
SPEC = InputSpec(SIZE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
PIXELS = torch.from_numpy(levels(SPEC))


class Small(nn.Module):
    """Stem, depthwise, two pointwise layers and a classifier: float32 (N, 3, 16, 16) to (N, num_classes)."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = nets.conv(3, 16, 3, nn.ReLU, stride=2)
        self.depthwise = nets.conv(16, 16, 3, nn.ReLU, groups=16)
        self.expand = nets.conv(16, 32, 1, nn.Hardswish)
        self.project = nets.conv(32, 32, 3, nn.ReLU, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(32, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        features = self.pool(self.project(self.expand(self.depthwise(self.stem(x)))))
        logits: Tensor = self.head(features.flatten(1))
        return logits


@dataclass(frozen=True)
class Digits:
    """The data and the network, in eval mode: copy it before you change it."""

    index: Index
    root: Path
    module: nn.Module
    train: ImageSet
    val: ImageSet

    def images(self, count: int = 32) -> Images:
        """That calibrate."""
        return Images(self.root, calibration(self.index, count, 0), SPEC)


_made: list[Digits] = []


def digits(factory: pytest.TempPathFactory) -> Digits:
    """Trained for some seconds at the first call."""
    if not _made:
        folder = factory.mktemp("digits")
        index = index_file.build(DataSection(source="digits", input=SIZE), folder, folder, Console(quiet=True))
        split = partial(ImageSet, index, index_file.root_of(index, folder), spec=SPEC)
        train, val = split(split="train"), split(split="val")
        torch.manual_seed(0)
        module = Small()
        optimizer = torch.optim.Adam(module.parameters(), lr=5e-3)
        for epoch in range(3):
            for values, labels in batches(train, 32, epoch):
                optimizer.zero_grad()
                torch.autograd.backward(nn.functional.cross_entropy(module(values), labels))
                optimizer.step()
        _made.append(Digits(index, index_file.root_of(index, folder), module.eval(), train, val))
    return _made[0]


def spoiled(module: nn.Module, factor: float) -> nn.Module:
    """The same float function, harder on int8: one channel of the stem is `factor` times as large as before.

    The depthwise layer behind takes the factor out again, so a power of two changes no float result. Between the two
    lies one tensor with one scale, which the large channel takes for itself.
    """
    result: Any = copy.deepcopy(module)
    with torch.no_grad():
        result.stem.bn.weight[0] *= factor
        result.stem.bn.bias[0] *= factor
        result.depthwise.conv.weight[0] /= factor
    spoilt: nn.Module = result
    return spoilt


def accuracy(module: nn.Module, images: ImageSet) -> float:
    """Share of right answers, image by image."""
    with torch.no_grad():
        pairs = [images[place] for place in range(len(images))]
        return sum(int(module(x.unsqueeze(0)).argmax()) == y for x, y in pairs) / len(pairs)
