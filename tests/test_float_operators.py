"""Operators without an int8 form run in float where the recipe allows it; moves and constants do not need it."""

# mypy: disable-error-code="operator, no-untyped-call, no-any-return"
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional

from edgekit.config.recipe import QuantizeSection
from edgekit.errors import Shortfall
from edgekit.export import float_operators
from edgekit.export.formats import onnx as to_onnx
from edgekit.export.formats import tflite as to_tflite
from edgekit.graph import integer_arithmetic
from edgekit.graph.exported_program import output_scale, trace
from edgekit.graph.ops import ADDS, MULS
from edgekit.lower import canonical
from edgekit.lower.rewrites import constants
from edgekit.quantize import ptq
from edgekit.runtime.engines import litert
from edgekit.runtime.engines import onnxruntime as ort
from edgekit.runtime.port import Session
from edgekit.types import Artifact
from edgekit.verify import diverge_int8
from edgekit.verify import files as verify
from tests import nets

EXPORTERS = {"onnx": to_onnx, "tflite": to_tflite}
ENGINES = {"onnx": ort, "tflite": litert}


class Attention(nn.Module):
    """Softmax and matrix products, and a layer norm before them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(tokens)).chunk(3, -1)
        mixed = (q @ k.transpose(1, 2) * 0.3).softmax(-1) @ v
        return x + mixed.transpose(1, 2).reshape(x.shape)


class Islands(nn.Module):
    """What has no int8 form here, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nets.conv(3, 16, stride=2)
        self.leaky, self.prelu, self.elu = nn.LeakyReLU(0.1), nn.PReLU(16), nn.ELU()
        self.conv1, self.conv2, self.conv3 = nets.conv(16, 16, stride=2), nets.conv(16, 16), nets.conv(16, 16, 1)
        self.tanh, self.gelu, self.mish = nn.Tanh(), nn.GELU(), nn.Mish()
        self.groups, self.up = nn.GroupNorm(4, 16), nn.ConvTranspose2d(16, 16, 2, 2)
        self.attention = Attention(16)
        self.head = nets.head(16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.elu(self.prelu(self.leaky(self.stem(x))))
        y = self.gelu(self.conv1(y))
        y = torch.maximum(self.tanh(self.conv2(y)), self.mish(self.conv3(y)))
        y = self.groups(y)
        y = functional.interpolate(self.up(y), scale_factor=0.5, mode="bilinear")
        logits: Tensor = self.head(self.attention(y))
        return logits


@pytest.fixture(scope="module")
def islands() -> tuple[nn.Module, GraphModule]:
    module = nets.settled(Islands())
    section = QuantizeSection(float_operators="allow")
    return module, ptq.quantize(module, nets.SIZE, nets.images(8, seed=1), nets.LEVELS, section).program.module()


def infer(made: Artifact, session: Session, images: Tensor) -> np.ndarray:
    return np.concatenate([verify._infer(made, session, image.unsqueeze(0).numpy()) for image in images])


@pytest.mark.parametrize("format_", ["onnx", "tflite"])
def test_allowed_operators_run_in_float_and_are_listed(
    islands: tuple[nn.Module, GraphModule], format_: str, tmp_path: Path
) -> None:
    module, graph = islands
    images = nets.images(6, seed=12)
    made = EXPORTERS[format_].export(graph, nets.SIZE, "int8", tmp_path, keep_float=None)
    integer = integer_arithmetic.integer_graph(graph)
    expected, exact = nets.run(integer, images).numpy(), nets.run(module, images).numpy()
    step = output_scale(graph)
    assert step is not None
    session = ENGINES[format_].load(str(tmp_path / made.path))
    got = infer(made, session, images)
    assert np.abs(got - expected).max() < 3.5 * step  # roundings after sums in another order, passed on
    assert np.square(exact).sum() / np.square(got - exact).sum() > 10**1.5  # 15 dB
    assert len(made.float_op_names) == made.float_ops >= 12
    kinds = {name.split()[0].lower().replace("_", "") for name in made.float_op_names}
    assert {"leakyrelu", "tanh", "gelu", "softmax"} <= kinds
    layers = {name.split()[1].rpartition("/")[0] for name in made.float_op_names}
    assert {"leaky", "gelu", "mish", "attention"} <= layers
    batch = images[:1]
    image = diverge_int8.Image(batch, verify.feed(made, session, batch.numpy()))
    said = diverge_int8.only_rounds(format_, tmp_path / made.path, integer, image, got[:1], 1e-3)
    assert said.startswith("float operators round differently: ")
    kernel = next(part for part in integer.modules() if isinstance(part, integer_arithmetic.IntegerKernel))
    kernel.weight = -kernel.weight
    assert not diverge_int8.only_rounds(format_, tmp_path / made.path, integer, image, got[:1], 1e-3)


def test_advice_names_layers_that_the_next_run_accepts(islands: tuple[nn.Module, GraphModule], tmp_path: Path) -> None:
    _, graph = islands
    with pytest.raises(Shortfall, match=r'set quantize.float_operators = "allow"') as caught:
        to_onnx.export(graph, nets.SIZE, "int8", tmp_path)
    said = str(caught.value)
    assert "leaky_relu in leaky" in said
    assert "maximum in the code of the network itself" in said
    assert "keep_float" not in said  # the maximum is in no layer that could be named
    inner = nets.settled(nn.Sequential(nets.conv(3, 8), nn.Sequential(nn.GELU(), nn.ELU()), nets.head(8)))
    with pytest.raises(Shortfall, match=r"add 1.0, 1.1 to quantize.keep_float, or replace"):
        to_onnx.export(nets.quantize(inner), nets.SIZE, "int8", tmp_path)
    kept = ["1.0", "1.1"]
    assert to_onnx.export(nets.quantize(inner, kept), nets.SIZE, "int8", tmp_path, keep_float=kept).float_ops == 2


def test_quantizing_refuses_at_once_what_the_recipe_does_not_allow() -> None:
    module = nets.settled(nn.Sequential(nets.conv(3, 8), nn.GELU(), nn.Sequential(nn.ELU()), nets.head(8)))
    images = nets.images(2, seed=1)
    with pytest.raises(
        Shortfall,
        match=r'^quantize: 2 operators have no int8 form: gelu in 1, elu in 2.0; set .* = "allow", add 1, 2.0 to quan',
    ):
        ptq.quantize(module, nets.SIZE, images, nets.LEVELS, QuantizeSection())
    ptq.quantize(module, nets.SIZE, images, nets.LEVELS, QuantizeSection(keep_float=["1", "2.0"]))


def moving(net: nets.Net, x: Tensor) -> Tensor:
    y = net.stem(x)
    y = functional.pixel_shuffle(y, 2)
    y = functional.interpolate(functional.pixel_unshuffle(y, 2), scale_factor=2, mode="nearest")
    y = functional.channel_shuffle(net.first(y), 4)
    a, b, c = y.split([4, 8, 4], 1)
    y = torch.cat([c, torch.roll(b, 1, 2), a.flip(3)], 1)
    y = net.second(y.flatten(2).reshape_as(y).permute(0, 2, 3, 1).permute(0, 3, 1, 2))
    logits: Tensor = net.head(y)
    return logits


@pytest.mark.parametrize("format_", ["onnx", "tflite"])
def test_moves_stay_integer(format_: str, tmp_path: Path) -> None:
    parts = {"stem": nets.conv(3, 16, stride=2), "first": nets.conv(16, 16), "second": nets.conv(16, 16)}
    graph, images = nets.quantize(nets.settled(nets.Net(moving, **parts, head=nets.head(16)))), nets.images(4, seed=12)
    assert not float_operators.float_nodes(graph)
    made = EXPORTERS[format_].export(graph, nets.SIZE, "int8", tmp_path)
    assert made.float_ops == 0
    got = infer(made, ENGINES[format_].load(str(tmp_path / made.path)), images)
    assert np.array_equal(got, nets.run(integer_arithmetic.integer_graph(graph), images).numpy())


def layer_scale(net: nets.Net, x: Tensor) -> Tensor:
    y = net.conv(((x - net.mean) / net.std).sub(0.5) / 0.25)
    y = functional.dropout(net.norm(y), 0.1, net.training) * net.gamma - 0.5
    logits: Tensor = net.head(y)
    return logits * 0.1


def test_constants_go_into_weights() -> None:
    parts = {
        "mean": nn.Parameter(torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)),
        "std": nn.Parameter(torch.tensor([0.5, 0.6, 0.7]).view(1, 3, 1, 1)),
        "gamma": nn.Parameter(torch.linspace(-1, 1, 16).view(16, 1, 1)),
    }
    module = nets.settled(
        nets.Net(layer_scale, conv=nn.Conv2d(3, 16, 3, padding=1), norm=nn.BatchNorm2d(16), head=nets.head(16), **parts)
    )
    graph = trace(module, nets.SIZE).module()
    images = nets.images(4, seed=3)
    canonical.apply(graph)
    assert constants.apply(graph) == 7
    assert not [node for node in graph.graph.nodes if node.target in ADDS | MULS]
    assert torch.allclose(nets.run(graph, images), nets.run(module, images), atol=1e-4)
    assert not float_operators.float_nodes(nets.quantize(module))


def test_a_subtraction_from_a_constant_adds() -> None:
    module = nets.Net(lambda net, x: (1 - x) * (net.one - x), one=nn.Parameter(torch.full((3, 1, 1), 2.0)))
    graph = trace(module.eval(), 8).module()
    canonical.apply(graph)
    assert {node.target for node in graph.graph.nodes if node.op == "call_function"} <= ADDS | MULS | {None}
    image = torch.randn(1, 3, 8, 8)
    assert torch.allclose(graph(image), module(image), atol=1e-6)
