from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional

from edgekit.config.recipe import QuantizeSection
from edgekit.errors import InputError, Shortfall
from edgekit.graph import exported_program, integer_arithmetic
from edgekit.graph.ops import DEQUANTIZE, QUANTIZE, WEIGHT_DEQUANTIZE
from edgekit.quantize import ptq
from tests import nets

aten = torch.ops.aten
Int64 = npt.NDArray[np.int64]


# --- where the Q/DQ pairs go


def quantized_behind(graph: GraphModule) -> list[str]:
    """Operators whose output is quantized, in order; "input" for the network's input."""
    found = []
    for node in graph.graph.nodes:
        if node.target is QUANTIZE:
            source = node.args[0]
            found.append("input" if source.op == "placeholder" else str(source.target).split(".")[1])
    return found


def graph_of(run: Callable[[Any, Tensor], Tensor], **parts: nn.Module | nn.Parameter) -> GraphModule:
    return nets.quantize(nets.settled(nets.Net(run, **parts)))


def test_annotate_quantizes_the_end_of_conv_bn_relu6() -> None:
    graph = graph_of(lambda net, x: net.block(x), block=nets.conv(3, 8, 3, nn.ReLU6))
    assert quantized_behind(graph) in (["input", "conv2d"], ["input", "relu6"])  # saturation may drop the clamp
    assert not any(node.target is aten.batch_norm.default for node in graph.graph.nodes)


def test_annotate_puts_nothing_between_conv_and_a_clamp_that_stays() -> None:
    graph = graph_of(lambda net, x: net.conv(x).clamp(-0.25, 0.5), conv=nn.Conv2d(3, 8, 3))
    assert quantized_behind(graph) in (["input", "clamp"], ["input", "conv2d"])


def test_annotate_quantizes_each_input_of_a_residual_add_and_the_end_of_its_relu() -> None:
    graph = graph_of(lambda net, x: torch.relu(net.a(x) + net.b(x)), a=nets.conv(3, 8), b=nets.conv(3, 8, 1))
    assert sorted(quantized_behind(graph)) == ["add", "conv2d", "conv2d", "input"]
    add = next(node for node in graph.graph.nodes if node.target is aten.add.Tensor)
    assert [source.target for source in add.all_input_nodes] == [DEQUANTIZE, DEQUANTIZE]


def test_annotate_gives_a_sigmoid_the_scale_that_tflite_prescribes() -> None:
    graph = graph_of(lambda net, x: net.gate(net.a(x)), a=nets.conv(3, 8, 3, nn.ReLU6), gate=nets.Gate(8, nn.Sigmoid))
    assert quantized_behind(graph) == ["input", "conv2d", "mean", "conv2d", "conv2d", "sigmoid", "mul"]
    sigmoid = next(node for node in graph.graph.nodes if node.target is aten.sigmoid.default)
    (sink,) = sigmoid.users
    assert sink.args[1:3] == (1 / 256, -128)


def test_annotate_lets_moves_share_one_scale() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        y = functional.pad(functional.max_pool2d(net.a(x), 2), (1, 0, 1, 0))
        z: Tensor = net.drop(torch.cat([y, y], 1).transpose(2, 3).flatten(1))
        return z

    graph = graph_of(run, a=nets.conv(3, 4, 3, nn.ReLU6), drop=nn.Dropout(0.5))
    grids = {
        node.args[1:3] for node in graph.graph.nodes if node.target is QUANTIZE and node.args[0].op != "placeholder"
    }
    assert len(grids) == 1
    assert quantized_behind(graph)[:2] == ["input", "conv2d"]
    assert {"max_pool2d", "pad", "cat", "transpose", "flatten"} <= set(quantized_behind(graph))


def test_annotate_keeps_a_lone_clamp_on_the_scale_of_its_input() -> None:
    # A requantization without an operator in it is taken for nothing by TFLite's converter.
    graph = graph_of(lambda net, x: (lambda y: y + torch.relu(y))(net.a(x)), a=nets.conv(3, 8))
    relu = next(node for node in graph.graph.nodes if node.target is aten.relu.default)
    (source,), (sink,) = relu.all_input_nodes, list(relu.users)
    assert source.args[1:3] == sink.args[1:3]


@pytest.mark.parametrize(
    "unsupported",
    [nn.ConvTranspose2d(8, 8, 2, 2), nn.Softmax(1), nn.GELU(), nn.GroupNorm(2, 8)],
    ids=lambda module: type(module).__name__,
)
def test_annotate_leaves_an_operator_without_integer_kernel_in_float(unsupported: nn.Module) -> None:
    graph = graph_of(lambda net, x: net.b(net.odd(net.a(x))), a=nets.conv(3, 8), odd=unsupported, b=nets.conv(8, 8))
    assert quantized_behind(graph)[:2] == ["input", "conv2d"]
    assert quantized_behind(graph)[-1] == "conv2d"
    weighted = [node for node in graph.graph.nodes if node.target is WEIGHT_DEQUANTIZE]
    assert len(weighted) == 2


def float_layers(graph: GraphModule) -> set[str]:
    """Modules with a convolution or a linear layer whose weight is not quantized."""
    found = set()
    for node in graph.graph.nodes:
        if node.target in (aten.conv2d.default, aten.linear.default):
            weight = node.args[1]
            if weight.target is not WEIGHT_DEQUANTIZE:
                assert node.args[1].op == "get_attr"
                found.add(str(weight.target).removesuffix(".weight"))
    return found


def test_quantize_keeps_exactly_the_named_layers_in_float() -> None:
    module = nets.settled(nets.Every())
    assert float_layers(nets.quantize(module)) == set()
    assert float_layers(nets.quantize(module, keep_float=["silu.depthwise"])) == {"silu.depthwise.conv"}
    assert float_layers(nets.quantize(module, keep_float=["down.conv", "head.3"])) == {"down.conv", "head.3"}


# --- bad input


def test_quantize_names_near_layers_when_keep_float_is_unknown() -> None:
    with pytest.raises(
        InputError, match=r'quantize\.keep_float = "stem\.con": no such layer; did you mean "stem\.conv"'
    ):
        nets.quantize(nets.settled(nets.Every()), keep_float=["stem.con"])


def test_quantize_raises_when_there_are_no_images() -> None:
    with pytest.raises(InputError, match="no images"):
        ptq.quantize(nets.settled(nets.conv(3, 4)), nets.SIZE, [], nets.LEVELS, QuantizeSection())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_quantize_raises_when_an_image_is_not_finite(bad: float) -> None:
    images = nets.images(3)
    images[1, 0, 4, 4] = bad
    with pytest.raises(Shortfall, match="calibration image 2 gives NaN or infinite"):
        ptq.quantize(nets.settled(nets.conv(3, 4)), nets.SIZE, images, nets.LEVELS, QuantizeSection())


def test_quantize_raises_when_weights_are_not_finite() -> None:
    module = nets.settled(nets.Every())
    with torch.no_grad():
        next(module.parameters()).fill_(torch.nan)
    with pytest.raises(Shortfall, match="calibration image 1 gives NaN or infinite"):
        nets.quantize(module)


@pytest.mark.parametrize("rule", ["minmax", "mse"])
def test_quantize_stays_near_the_float_network(rule: str) -> None:
    module = nets.settled(
        nn.Sequential(nets.conv(3, 8, 3, nn.ReLU6, stride=2), nets.conv(8, 8, 3, nn.ReLU), nets.head(8))
    )
    section = QuantizeSection(range=rule)
    program = ptq.quantize(module, nets.SIZE, nets.images(8, seed=1), nets.LEVELS, section).program
    images = nets.images(16, seed=2)
    exact = nets.run(module, images)
    assert float((nets.run(program.module(), images) - exact).abs().max() / exact.abs().max()) < 0.1


def test_quantize_leaves_the_module_as_it_was() -> None:
    module = nets.settled(nets.Every())
    kept = {name: value.clone() for name, value in module.state_dict().items()}
    nets.quantize(module)
    for name, value in module.state_dict().items():
        assert torch.equal(value, kept[name]), name


def test_quantize_gives_the_same_scales_and_weights_when_run_twice() -> None:
    module = nets.settled(nets.Every())
    first, second = nets.quantize(module), nets.quantize(module)
    assert exported_program.plan(first) == exported_program.plan(second)
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


# --- the integer reference against int64 arithmetic by hand


def grids(graph: GraphModule) -> tuple[exported_program.QuantizedTensor, exported_program.QuantizedTensor]:
    plan = exported_program.plan(graph)
    return plan[0], plan[-1]


def weights(graph: GraphModule) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], Any]:
    """Weight, its scales and the bias of the only weighted operator, in float64."""
    (node,) = [node for node in graph.graph.nodes if node.target in (aten.conv2d.default, aten.linear.default)]
    named = {**dict(graph.named_parameters()), **dict(graph.named_buffers())}

    def read(holder: Any) -> npt.NDArray[np.float64]:
        values: npt.NDArray[np.float64] = named[holder.target].detach().double().numpy()
        return values

    dequantize: Any = node.args[1]
    bias = read(node.args[2]) if len(node.args) > 2 and node.args[2] is not None else None
    return read(dequantize.args[0].args[0]), read(dequantize.args[1]), bias


def convolve(x: Int64, weight: Int64, stride: int, padding: int, groups: int) -> Int64:
    """Sums of products over (1, C, H, W) with loops over the output."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    width, per, kernel, _ = weight.shape
    side = (x.shape[2] - kernel) // stride + 1
    total = np.zeros((1, width, side, side), np.int64)
    for channel in range(width):
        first = channel // (width // groups) * per
        for row in range(side):
            for column in range(side):
                patch = x[0, first : first + per, row * stride :, column * stride :][:, :kernel, :kernel]
                total[0, channel, row, column] = (patch * weight[channel]).sum()
    return total


def by_hand(
    graph: GraphModule, image: Tensor, accumulate: Callable[[Int64, Int64], Int64], low: float, high: float
) -> Int64:
    """int8 output: int64 sums, one multiplication in float64, round half to even, clamp."""
    source, sink = grids(graph)
    weight, scales, bias = weights(graph)
    x = np.rint(image.double().numpy() / source.scale).astype(np.int64) + source.zero_point
    x = x.clip(-128, 127) - source.zero_point
    steps = np.rint(weight / scales.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.int64)
    total = accumulate(x, steps)
    shape = (1, -1) + (1,) * (total.ndim - 2)
    if bias is not None:
        total = total + np.rint(bias / (source.scale * scales)).astype(np.int64).reshape(shape)
    real = total * (source.scale * scales / sink.scale).reshape(shape)
    bounds = [
        max(-128, np.rint(low / sink.scale) + sink.zero_point),
        min(127, np.rint(high / sink.scale) + sink.zero_point),
    ]
    result: Int64 = (np.rint(real) + sink.zero_point).clip(*bounds).astype(np.int64)
    return result


def integers(module: Callable[[Tensor], Tensor], graph: GraphModule, image: Tensor) -> Int64:
    _, sink = grids(graph)
    with torch.no_grad():
        steps = module(image).double().numpy() / sink.scale + sink.zero_point
    assert np.abs(steps - np.rint(steps)).max() < 1e-3
    result: Int64 = np.rint(steps).astype(np.int64)
    return result


INFINITE = float("inf")


@pytest.mark.parametrize(
    ("layer", "clamp", "low", "high"),
    [
        (nn.Conv2d(3, 6, 3), nn.Identity(), -INFINITE, INFINITE),
        (nn.Conv2d(3, 6, 3, bias=False), nn.ReLU(), 0, INFINITE),
        (nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU6(), 0, 6),
        (nn.Conv2d(3, 3, 5, padding=2, groups=3), nn.Hardtanh(-0.3, 0.4), -0.3, 0.4),
        (nn.Conv2d(3, 6, 1, stride=3, groups=3), nn.ReLU6(), 0, 6),
    ],
    ids=["plain", "no bias, relu", "stride and padding, relu6", "depthwise, narrow clamp", "grouped, depth multiplier"],
)
def test_integer_graph_equals_convolution_by_hand(layer: nn.Conv2d, clamp: nn.Module, low: float, high: float) -> None:
    graph = nets.quantize(nets.settled(nn.Sequential(layer, clamp), seed=4))
    integer = integer_arithmetic.integer_graph(graph)

    def accumulate(x: Int64, weight: Int64) -> Int64:
        return convolve(x, weight, layer.stride[0], int(layer.padding[0]), layer.groups)

    for image in nets.images(3, seed=7):
        expected = by_hand(graph, image.unsqueeze(0), accumulate, low, high)
        np.testing.assert_array_equal(integers(integer, graph, image.unsqueeze(0)), expected)
        np.testing.assert_array_equal(integers(graph, graph, image.unsqueeze(0)), expected)
    assert len(np.unique(expected)) > 20


@pytest.mark.parametrize("bias", [True, False])
def test_integer_graph_equals_a_linear_layer_by_hand(bias: bool) -> None:
    graph = nets.quantize(nets.settled(nn.Sequential(nn.Flatten(), nn.Linear(3 * nets.SIZE**2, 7, bias=bias)), seed=5))
    integer = integer_arithmetic.integer_graph(graph)

    def accumulate(x: Int64, weight: Int64) -> Int64:
        product: Int64 = x.reshape(1, -1) @ weight.T
        return product

    for image in nets.images(5, seed=8):
        expected = by_hand(graph, image.unsqueeze(0), accumulate, -INFINITE, INFINITE)
        np.testing.assert_array_equal(integers(integer, graph, image.unsqueeze(0)), expected)
        np.testing.assert_array_equal(integers(graph, graph, image.unsqueeze(0)), expected)


@pytest.fixture(scope="module")
def patterns() -> tuple[nn.Module, GraphModule]:
    module = nets.settled(nets.Every())
    return module, nets.quantize(module)


def test_integer_graph_runs_no_weighted_operator_in_float(patterns: tuple[nn.Module, GraphModule]) -> None:
    integer = integer_arithmetic.integer_graph(patterns[1])
    assert not any(node.target in (aten.conv2d.default, aten.linear.default) for node in integer.graph.nodes)


def test_integer_graph_takes_a_linear_layer_over_tokens() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        tokens = net.stem(x).flatten(2).transpose(1, 2)
        logits: Tensor = net.head(net.mix(tokens).mean(1))
        return logits

    graph = graph_of(run, stem=nets.conv(3, 8, stride=4), mix=nn.Linear(8, 12), head=nn.Linear(12, 10))
    images = nets.images(4)
    assert torch.equal(nets.run(integer_arithmetic.integer_graph(graph), images), nets.run(graph, images))


@pytest.mark.parametrize("fold", [exported_program.fold_weights, exported_program.fold_constants])
def test_folding_changes_no_output(
    patterns: tuple[nn.Module, GraphModule], fold: Callable[[GraphModule], GraphModule]
) -> None:
    images = nets.images(4)
    assert torch.equal(nets.run(fold(patterns[1]), images), nets.run(patterns[1], images))


def test_load_gives_the_graph_that_was_saved(tmp_path: Path) -> None:
    module = nets.settled(nets.conv(3, 4, 3, nn.ReLU6))
    program = ptq.quantize(module, nets.SIZE, nets.images(4), nets.LEVELS, QuantizeSection()).program
    exported_program.save(program, tmp_path / "quantized.pt2")
    loaded = exported_program.load(tmp_path / "quantized.pt2")
    assert exported_program.plan(loaded) == exported_program.plan(program.module())
    assert torch.equal(nets.run(loaded, nets.images(4)), nets.run(program.module(), nets.images(4)))


def test_plan_names_the_layer_of_each_tensor(patterns: tuple[nn.Module, GraphModule]) -> None:
    module, graph = patterns
    plan = exported_program.plan(graph)
    names = {name for name, _ in module.named_modules()}
    assert plan[0].layer == ""
    assert {tensor.layer for tensor in plan} <= names
    assert {"stem.conv", "silu.depthwise.conv", "head.3"} & {tensor.layer for tensor in plan}
    assert all(tensor.scale > 0 and -128 <= tensor.zero_point <= 127 for tensor in plan)


def test_output_scale_is_none_when_the_output_is_not_quantized() -> None:
    assert exported_program.output_scale(graph_of(lambda net, x: torch.tanh(net.a(x)), a=nets.conv(3, 4))) is None
    graph = graph_of(lambda net, x: net.a(x), a=nets.conv(3, 4))
    assert exported_program.output_scale(graph) == exported_program.plan(graph)[-1].scale
