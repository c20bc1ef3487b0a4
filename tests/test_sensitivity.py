from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torchao.quantization.pt2e import MinMaxObserver, PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

from edgekit.graph import integer_arithmetic
from edgekit.graph.ops import QUANTIZE, WEIGHT_DEQUANTIZE, constant
from edgekit.quantize import ptq
from edgekit.quantize.annotate import Int8Quantizer
from edgekit.quantize.sensitivity import sensitivity
from edgekit.types import Sensitivity
from tests import nets


def original(module: nn.Module) -> GraphModule:
    """The float graph that `ptq.quantize` starts from."""
    return ptq.float_graph(module, nets.SIZE)[0]


def rows(module: nn.Module, count: int = 4, **options: Any) -> dict[str, Sensitivity]:
    found = sensitivity(original(module), nets.quantize(module, **options), [*nets.images(count, seed=7)])
    return {row.layer: row for row in found}


def sqnr(exact: Tensor, got: Tensor) -> float:
    wanted, noise = exact.double().numpy(), (got - exact).double().numpy()
    return float(10 * np.log10((wanted**2).sum() / (noise**2).sum()))


def test_sensitivity_equals_the_net_with_one_layer_rounded_by_hand() -> None:
    torch.manual_seed(3)
    first, second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 1)
    module = nn.Sequential(first, nn.ReLU6(), second, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    graph, images = nets.quantize(module), nets.images(4, seed=7)
    convolution, *_ = (node for node in graph.graph.nodes if node.target is torch.ops.aten.conv2d.default)
    dequantized = convolution.args[1]
    assert dequantized.target is WEIGHT_DEQUANTIZE
    weight = constant(graph, dequantized.args[0].args[0])  # already on its grid
    assert not torch.equal(weight, first.weight)
    _, sink, *_ = (node for node in graph.graph.nodes if node.target is QUANTIZE)
    scale, zero = sink.args[1:3]
    with torch.no_grad():
        exact = module(images)
        assert first.bias is not None
        bias = first.bias - torch.nn.functional.conv2d(images, weight - first.weight).mean((0, 2, 3))
        hidden = torch.relu(torch.nn.functional.conv2d(images, weight, bias)).clamp(max=6)
        steps = (torch.round(hidden / scale) + zero).clamp(-128, 127)
        got = module[2:]((steps - zero) * scale)
    row = rows(module)["0"]
    assert row.sqnr_db == pytest.approx(sqnr(exact, got), abs=0.01)
    assert row.agreement == (exact.argmax(1) == got.argmax(1)).float().mean()


def spread(factor: float) -> Any:
    """A net in which the first channel of one depthwise layer is `factor` times as large, and nobody reads it."""
    module: Any = nets.settled(
        nn.Sequential(
            nets.conv(3, 8, 3, nn.ReLU, stride=2),
            nn.Conv2d(8, 8, 3, padding=1, groups=8),
            nn.Conv2d(8, 16, 1),
            nn.ReLU(),
            nets.conv(16, 16, 3, nn.ReLU),
            nets.head(16),
        )
    )
    depthwise, pointwise = module[1], module[2]
    with torch.no_grad():
        for tensor in (depthwise.weight, depthwise.bias):
            tensor[0] *= factor
        pointwise.weight[:, 0] = 0
    return module


def test_sensitivity_puts_the_layer_with_a_spoilt_range_first() -> None:
    even, uneven = rows(spread(1)), rows(spread(200))
    assert next(iter(uneven)) == "1"  # its seven other channels share a few of the 256 steps
    assert uneven["1"].sqnr_db < sorted(row.sqnr_db for row in uneven.values())[1] - 10
    assert uneven["1"].sqnr_db < even["1"].sqnr_db - 10
    for name in set(even) - {"1"}:  # a layer is judged by itself, whatever is wrong elsewhere
        assert uneven[name].sqnr_db == pytest.approx(even[name].sqnr_db, abs=0.5)


def test_sensitivity_names_every_layer_once_worst_first() -> None:
    module = nets.settled(nets.Every())
    found = rows(module)
    weighted = {name for name, part in module.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)}
    activations = {"stem.act", "swish.expand.act", "silu.depthwise.act", "silu.gate.gate", "head.0"}
    assert weighted | activations <= set(found)
    assert set(found) <= {name for name, _ in module.named_modules()}
    assert not {"swish", "swish.gate"} & set(found)  # their own additions and products
    values = [row.sqnr_db for row in found.values()]
    assert values == sorted(values)
    assert all(0 <= row.agreement <= 1 for row in found.values())


def test_sensitivity_of_the_layers_adds_up_to_the_noise_of_the_whole() -> None:
    module = nets.settled(
        nn.Sequential(
            nets.conv(3, 8, 3, nn.ReLU, stride=2),
            nets.conv(8, 16, 1, nn.ReLU6),
            nets.conv(16, 16, 3, nn.ReLU6, groups=16),
            nets.conv(16, 8, 1),
            nets.head(8),
        )
    )
    quantized, images = nets.quantize(module), nets.images(8, seed=7)
    whole = sqnr(nets.run(module, images), nets.run(integer_arithmetic.integer_graph(quantized), images))
    alone = [10 ** (-row.sqnr_db / 10) for row in sensitivity(original(module), quantized, [*images])]
    together = -10 * np.log10(sum(alone))
    assert -3 < whole - together < 6  # better where the correction of later biases takes back earlier shifts


def test_sensitivity_leaves_out_what_stays_float() -> None:
    module = nets.settled(nets.Every())
    found = rows(module, keep_float=["silu.expand"])
    assert "silu.depthwise.conv" in found
    assert not any(name.startswith("silu.expand") for name in found)


def test_sensitivity_takes_observed_graphs_and_operators_in_place_and_changes_nothing() -> None:
    module: Any = nets.settled(
        nn.Sequential(
            nets.conv(3, 8), nn.ReLU6(inplace=True), nets.conv(8, 8), nn.Hardswish(inplace=True), nets.head(8)
        )
    )
    plain = original(module)
    quantized, images = nets.quantize(module), [*nets.images(3, seed=7)]
    graphs = (plain, quantized)
    before = [{name: value.clone() for name, value in graph.state_dict().items()} for graph in graphs]
    expected = sensitivity(plain, quantized, images)
    for graph, values in zip(graphs, before, strict=True):
        assert all(torch.equal(value, values[name]) for name, value in graph.state_dict().items())
    observed = prepare_pt2e(original(module), Int8Quantizer(MinMaxObserver, PerChannelMinMaxObserver))
    assert sensitivity(observed, quantized, images) == expected
    apart = nn.Sequential(module[0], nn.ReLU6(), module[2], nn.Hardswish(), module[4]).eval()
    for row, other in zip(expected, sensitivity(original(apart), quantized, images), strict=True):
        assert row.sqnr_db == pytest.approx(other.sqnr_db, abs=1e-3)


def test_sensitivity_refuses_graphs_of_two_networks_and_no_images() -> None:
    module = nets.settled(nn.Sequential(nets.conv(3, 4), nets.head(4)))
    other = nets.settled(nn.Sequential(nets.conv(3, 4), nets.conv(4, 4), nets.head(4)))
    quantized = nets.quantize(module)
    with pytest.raises(ValueError, match="not of the same network"):
        sensitivity(original(other), quantized, [*nets.images(1)])
    with pytest.raises(ValueError, match="no images"):
        sensitivity(original(module), quantized, [])
