"""What networks with attention do besides convolving, in both engines against torch's integer graph."""

# mypy: disable-error-code="operator, no-untyped-call, no-any-return"
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from timm.models._efficientnet_blocks import MobileAttention
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional

from edgekit.export.formats import onnx as to_onnx
from edgekit.export.formats import tflite as to_tflite
from edgekit.graph.exported_program import output_scale, trace
from edgekit.graph.integer_arithmetic import integer_graph
from edgekit.lower import weights
from edgekit.runtime.engines import litert
from edgekit.runtime.engines import onnxruntime as ort
from edgekit.verify import files as verify
from tests import nets

EXPORTERS = {"onnx": to_onnx, "tflite": to_tflite}
ENGINES = {"onnx": ort, "tflite": litert}
IMAGES = nets.images(4, seed=5)
FORMATS = pytest.mark.parametrize("format_", list(EXPORTERS))


def network(*parts: nn.Module) -> nn.Module:
    return nets.settled(nn.Sequential(nets.conv(3, 16, stride=2, activation=nn.ReLU), *parts, nets.head(16)))


def most_steps(graph: GraphModule, format_: str, folder: Path) -> tuple[float, int]:
    """How far an engine's outputs are from torch's, in steps of their grid, and how many operators are float."""
    made = EXPORTERS[format_].export(graph, nets.SIZE, "int8", folder, keep_float=None)
    session = ENGINES[format_].load(str(folder / made.path))
    got = np.concatenate([verify._infer(made, session, image.unsqueeze(0).numpy()) for image in IMAGES])
    expected, step = nets.run(integer_graph(graph), IMAGES).numpy(), output_scale(graph)
    assert step is not None
    return float(np.abs(got - expected).max()) / step, made.float_ops


class Positions(nn.Module):
    """A position encoding that begins with a boolean mask, as in DETR and EdgeNeXt."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Conv2d(8, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        mask = ~torch.zeros((x.shape[0], *x.shape[2:])).to(torch.bool)
        steps = mask.cumsum(1, dtype=torch.float32), mask.cumsum(2, dtype=torch.float32)
        angles = torch.stack([step / 2.0**power for step in steps for power in torch.arange(2)], 1)
        waves = torch.cat([angles.sin(), angles.cos()], 1)
        return x + self.project(waves)


@FORMATS
def test_a_position_encoding_is_a_constant(format_: str, tmp_path: Path) -> None:
    assert most_steps(nets.quantize(network(Positions())), format_, tmp_path) == (0, 0)


class Written(nn.Module):
    """Tensors that are filled in place: one with constants, one with the image."""

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.zeros(16, 1, 1)
        mask[4:12] = 1.0
        shifted = torch.zeros(x.shape)
        shifted[:, :, 1:] = x[:, :, :-1]
        return x * mask + shifted


def test_only_tensors_without_the_image_are_computed_once() -> None:
    module = network(Written())
    graph = trace(module, nets.SIZE).module()
    weights.apply(graph)
    created = [node for node in graph.graph.nodes if node.op == "call_function" and not node.all_input_nodes]
    assert [tuple(node.meta["val"].shape) for node in created] == [(1, 16, 16, 16)]
    torch.testing.assert_close(nets.run(graph, IMAGES), nets.run(module, IMAGES))


class Branches(nn.Module):
    """Attention whose result is moved, added to the image, and read without what is negative, as in EfficientViT."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.conv = nets.conv(16, 48), nets.conv(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).flatten(2).chunk(3, 1)
        mixed = v @ (q.transpose(1, 2) @ k * 0.01).softmax(-1).transpose(1, 2)
        y = mixed.view(x.shape)
        return x + y + self.conv(functional.relu(torch.cat([y, y], 1)))


@FORMATS
def test_a_moved_float_result_has_one_grid_for_all_its_readers(format_: str, tmp_path: Path) -> None:
    steps, floats = most_steps(nets.quantize(network(Branches())), format_, tmp_path)
    assert floats <= 3  # two products and a softmax
    assert steps <= 1


@FORMATS
def test_heads_that_share_one_key(format_: str, tmp_path: Path) -> None:
    attention = MobileAttention(16, 16, num_heads=2, key_dim=8, value_dim=8, use_multi_query=True, kv_stride=2)
    for part in attention.modules():
        if type(part).__name__ == "LayerScale2d":
            nn.init.ones_(part.gamma)
    steps, _ = most_steps(nets.quantize(network(attention)), format_, tmp_path)
    assert steps <= 1
