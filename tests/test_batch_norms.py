"""Batch norms without a convolution before them, and networks that train with branches and run without."""

# mypy: disable-error-code="operator"
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from timm.models.byobnet import LayerFn, RepVggBlock
from torch import Tensor, nn
from torch.nn import functional

from edgekit.export import float_operators
from edgekit.export.formats import onnx as to_onnx
from edgekit.export.formats import tflite as to_tflite
from edgekit.graph import integer_arithmetic
from edgekit.graph.exported_program import trace
from edgekit.graph.ops import BATCH_NORM, aten
from edgekit.lower.reparameterize import joined
from edgekit.lower.rewrites import batch_norm
from edgekit.quantize import ptq
from edgekit.runtime.engines import litert
from edgekit.runtime.engines import onnxruntime as ort
from edgekit.verify import files as verify
from tests import nets


def seen(module: nn.Module) -> nn.Module:
    """With random batch norms and statistics of real images."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, -0.5, 0.5)
    torch.manual_seed(0)
    return nets.settled(module)


def pre_activation() -> nn.Module:
    """As in pre-activation ResNets and DenseNet: norm, clamp, convolution; the norms read a sum and a concatenation."""

    def run(net: nets.Net, x: Tensor) -> Tensor:
        y = net.stem(x)
        y = y + net.conv1(functional.relu(net.norm1(y)))
        y = torch.cat([y, net.conv2(functional.relu(net.norm2(y)))], 1)
        logits: Tensor = net.head(functional.relu(net.norm3(y)))
        return logits

    return nets.Net(
        run,
        stem=nn.Sequential(nets.conv(3, 8), nn.MaxPool2d(2)),
        norm1=nn.BatchNorm2d(8),
        conv1=nn.Conv2d(8, 8, 3, padding=1, bias=False),
        norm2=nn.BatchNorm2d(8),
        conv2=nn.Conv2d(8, 8, 3, padding=1, bias=False),
        norm3=nn.BatchNorm2d(16),
        head=nets.head(16),
    )


def mixed() -> nn.Module:
    """As in MixNet: the norm reads convolutions of several sizes."""
    return nets.Net(
        lambda net, x: net.head(functional.relu(net.norm(torch.cat([net.a(x), net.b(x)], 1)))),
        a=nn.Conv2d(3, 8, 3, padding=1, bias=False),
        b=nn.Conv2d(3, 8, 5, padding=2, bias=False),
        norm=nn.BatchNorm2d(16),
        head=nets.head(16),
    )


def of_images() -> nn.Module:
    """The norm reads the network's input; the convolution after it is padded."""
    return nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nets.head(8))


def before_layers() -> nn.Module:
    """Norms before a 1x1 convolution and before a linear layer, as in LeViT's head."""
    parts = (nn.MaxPool2d(2), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1, bias=False), nn.ReLU())
    return nn.Sequential(
        nets.conv(3, 8), *parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(8), nn.Linear(8, 10)
    )


CASES = {
    "pre-activation": (pre_activation, 3, 3),
    "concatenation": (mixed, 1, 0),
    "images": (of_images, 1, 1),
    "before layers": (before_layers, 2, 0),
}
"""Network, how many norms no convolution precedes, and how many of these become depthwise convolutions."""


@pytest.mark.parametrize("case", CASES)
def test_a_batch_norm_without_a_convolution_changes_no_value_and_stays_integer(case: str) -> None:
    build, alone, depthwise = CASES[case]
    module = seen(build())
    graph = trace(module, nets.SIZE).module()
    images = nets.images(4, seed=3)
    before = sum(node.target is aten.conv2d.default for node in graph.graph.nodes)
    exact = nets.run(module, images)
    assert batch_norm.matches(graph) == alone
    assert batch_norm.apply(graph) == alone
    assert sum(node.target is aten.conv2d.default for node in graph.graph.nodes) == before + depthwise
    assert torch.allclose(nets.run(graph, images), exact, atol=1e-4)
    quantized = nets.quantize(module)
    assert not [node for node in quantized.graph.nodes if node.target in BATCH_NORM]
    assert not float_operators.float_nodes(quantized)
    noise = nets.run(integer_arithmetic.integer_graph(quantized), images) - exact
    assert float(exact.square().sum() / noise.square().sum()) > 10**2.0  # 20 dB


@pytest.mark.parametrize("format_", ["onnx", "tflite"])
def test_both_engines_compute_the_same_integers_after_a_lone_batch_norm(format_: str, tmp_path: Path) -> None:
    module = seen(pre_activation())
    graph, images = nets.quantize(module), nets.images(6, seed=12)
    expected = nets.run(integer_arithmetic.integer_graph(graph), images).numpy()
    made = (to_onnx if format_ == "onnx" else to_tflite).export(graph, nets.SIZE, "int8", tmp_path)
    assert made.float_ops == 0
    session = (ort if format_ == "onnx" else litert).load(str(tmp_path / made.path))
    got = [verify._infer(made, session, image.unsqueeze(0).numpy()) for image in images]
    assert np.array_equal(np.concatenate(got), expected)


def branches() -> nn.Module:
    layers = LayerFn()
    return nn.Sequential(RepVggBlock(3, 8, layers=layers), RepVggBlock(8, 8, layers=layers), nets.head(8))


def test_branches_are_joined_for_graphs_and_weights_keep_theirs() -> None:
    module = seen(branches())
    names, images = set(module.state_dict()), nets.images(4, seed=3)
    exact = nets.run(module, images)
    one = joined(module, nets.SIZE)
    assert set(module.state_dict()) == names
    assert "1.reparam_conv.weight" in one.state_dict()
    assert torch.allclose(nets.run(one, images), exact, atol=1e-4)
    graph, _ = ptq.float_graph(module, nets.SIZE)
    convolutions = [node for node in graph.graph.nodes if node.target is aten.conv2d.default]
    assert len(convolutions) == 2
    assert not float_operators.float_nodes(nets.quantize(module))


class Fuse(nn.Module):
    """Something else than what the name says: the first raises, the second is another function."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.conv, self.broken = nn.Conv2d(8, 8, 1), broken

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(x)
        return result

    def fuse(self) -> nn.Module:
        if self.broken:
            raise RuntimeError("needs a context")
        return nn.Identity()


@pytest.mark.parametrize("broken", [True, False])
def test_a_method_that_joins_nothing_is_not_trusted(broken: bool) -> None:
    module = seen(nn.Sequential(nets.conv(3, 8), Fuse(broken), nets.head(8)))
    assert joined(module, nets.SIZE).state_dict().keys() == module.state_dict().keys()


class Chaotic(nn.Module):
    """Turns the noise of float32 sums into another answer, as a deep net far from its images does."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(1e6 * x)


def test_float64_decides_where_a_network_amplifies_the_noise_of_sums() -> None:
    module = seen(nn.Sequential(*branches().children(), Chaotic()))
    assert "1.reparam_conv.weight" in joined(module, nets.SIZE).state_dict()
