"""Small networks in eval mode, made of the patterns of MobileNet and EfficientNet, and images on the 8-bit grid."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from edgekit import choices
from edgekit.config.recipe import QuantizeSection
from edgekit.disk import json_file
from edgekit.graph import exported_program
from edgekit.quantize import ptq
from edgekit.types import Artifact
from tests import shared_files

SIZE = 32
LEVELS = (torch.arange(256) / 255 - 0.5) / 0.5
"""Every value an 8-bit pixel can take with mean and standard deviation 1/2."""


def images(count: int, seed: int = 0, size: int = SIZE) -> Tensor:
    """Random images on the pixel grid: float32 (count, 3, size, size), smooth with some noise."""
    generator = torch.Generator().manual_seed(seed)
    fine = torch.rand(count, 3, size, size, generator=generator)
    coarse = nn.functional.interpolate(torch.rand(count, 3, 4, 4, generator=generator), size, mode="bilinear")
    return LEVELS[((0.3 * fine + 0.7 * coarse) * 255).round().long()]


def settled(module: nn.Module, seed: int = 0) -> nn.Module:
    """The same module with random weights of a trained net's size, batch-norm statistics of real images, eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5, generator=generator)
            nn.init.uniform_(part.bias, -0.5, 0.5, generator=generator)
        elif isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight, generator=generator)
            if part.bias is not None:
                nn.init.uniform_(part.bias, -0.2, 0.2, generator=generator)
    with torch.no_grad():
        module.train()(images(16, seed=99))
    return module.eval()


def conv(
    source: int,
    width: int,
    kernel: int = 3,
    activation: type[nn.Module] | None = None,
    stride: int = 1,
    groups: int = 1,
) -> nn.Module:
    """Convolution, batch norm and an activation, as ``conv``, ``bn`` and ``act``."""
    parts = nn.Sequential()
    core = nn.Conv2d(source, width, kernel, stride, kernel // 2, groups=groups, bias=False)
    parts.add_module("conv", core)
    parts.add_module("bn", nn.BatchNorm2d(width))
    if activation is not None:
        parts.add_module("act", activation())
    return parts


class Gate(nn.Module):
    """Squeeze and excite."""

    def __init__(self, width: int, gate: type[nn.Module]) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(width, width // 2, 1)
        self.act = nn.ReLU()
        self.expand = nn.Conv2d(width // 2, width, 1)
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        squeezed = x.mean((2, 3), keepdim=True)
        scaled: Tensor = x * self.gate(self.expand(self.act(self.reduce(squeezed))))
        return scaled


class Block(nn.Module):
    """Inverted residual: expand, depthwise, squeeze and excite, project, add."""

    def __init__(self, width: int, activation: type[nn.Module], gate: type[nn.Module]) -> None:
        super().__init__()
        self.expand = conv(width, 2 * width, 1, activation)
        self.depthwise = conv(2 * width, 2 * width, 3, activation, groups=2 * width)
        self.gate = Gate(2 * width, gate)
        self.project = conv(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = x + self.project(self.gate(self.depthwise(self.expand(x))))
        return total


class Every(nn.Module):
    """One of each pattern: float32 (N, 3, 32, 32) to (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8, 3, nn.Hardswish, stride=2)
        self.swish = Block(8, nn.Hardswish, nn.Hardsigmoid)
        self.silu = Block(8, nn.SiLU, nn.Sigmoid)
        self.relu6 = Block(8, nn.ReLU6, nn.Sigmoid)
        self.down = conv(8, 16, 3, nn.ReLU6, stride=2)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(16, 10))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.down(self.relu6(self.silu(self.swish(self.stem(x))))))
        return logits


class Net(nn.Module):
    """Named parts and what to do with them: ``Net(lambda net, x: net.head(net.stem(x)), stem=..., head=...)``."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def head(width: int) -> nn.Module:
    """Global pooling and a classifier of 10 classes."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def quantize(module: nn.Module, keep_float: Iterable[str] = (), size: int = SIZE) -> GraphModule:
    """The network through `ptq.quantize` with 8 calibration images; operators without an int8 form stay in float."""
    return program(module, keep_float, size).module()


def program(module: nn.Module, keep_float: Iterable[str] = (), size: int = SIZE) -> ExportedProgram:
    """What `quantize` gives, to be saved."""
    section = QuantizeSection(keep_float=list(keep_float), float_operators="allow")
    return ptq.quantize(module, size, images(8, seed=1, size=size), LEVELS, section).program


def run(module: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
    """Outputs, image by image: quantized graphs take one at a time."""
    with torch.no_grad():
        return torch.cat([module(image.unsqueeze(0)) for image in batch])


@dataclass(frozen=True)
class Compressed:
    """`Every`, its quantized graph, and the files they became."""

    module: nn.Module
    graph: GraphModule
    folder: Path
    artifacts: dict[str, Artifact]


_made: list[Compressed] = []
PROGRAM = "quantized.pt2"
"""The quantized graph in `Compressed.folder`."""


def compressed(factory: pytest.TempPathFactory) -> Compressed:
    """Made once for all tests, also those in other processes; none may change the files."""

    def make(folder: Path) -> None:
        module = settled(Every())
        quantized = program(module)
        exported_program.save(quantized, folder / PROGRAM)
        made = export(module, quantized.module(), folder)
        json_file.save(folder / "artifacts.json", list(made.artifacts.values()))

    if not _made:
        folder = shared_files.made(factory, "every", make)
        artifacts = {made.id: made for made in json_file.load(folder / "artifacts.json", list[Artifact])}
        _made.append(Compressed(settled(Every()), exported_program.load(folder / PROGRAM), folder, artifacts))
    return _made[0]


def export(
    module: nn.Module, graph: GraphModule, folder: Path, formats: Sequence[str] = ("onnx", "tflite")
) -> Compressed:
    """Write both precisions in each format."""
    artifacts = {}
    for precision, source in (("fp32", module), ("int8", graph)):
        for name in formats:
            made = choices.pick("edgekit.export.formats", name, "export.formats").export(
                copy.deepcopy(source), SIZE, precision, folder
            )
            artifacts[made.id] = made
    return Compressed(module, graph, folder, artifacts)
