from __future__ import annotations

import copy
import importlib
import inspect
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional

from edgekit import choices
from edgekit.export.formats import onnx as to_onnx
from edgekit.graph import exported_program, integer_arithmetic
from edgekit.lower import canonical
from edgekit.lower.rewrites import (
    average_pool,
    byte_clip,
    conv_padding,
    four_channels,
    global_average_pool,
    hard_sigmoid,
    hard_swish,
    saturation,
    silu,
    sixteen_channels,
    uint8_activations,
)
from edgekit.quantize import ptq
from tests import nets

aten = torch.ops.aten


def float_graph(run: Callable[[Any, Tensor], Tensor], **parts: nn.Module | nn.Parameter) -> GraphModule:
    """Weights of its own, as `ptq.quantize` hands it to the rewrites."""
    graph: GraphModule = exported_program.trace(copy.deepcopy(nets.settled(nets.Net(run, **parts))), nets.SIZE).module()
    return graph


def targets(graph: GraphModule) -> list[object]:
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


def rewritten(rewrite: Any, graph: GraphModule) -> int:
    """How many were rewritten, after checking that the outputs are still the same."""
    images = nets.images(6, seed=3)
    before = nets.run(graph, images)
    count: int = rewrite.apply(graph)
    graph.graph.lint()
    torch.testing.assert_close(nets.run(graph, images), before, rtol=1e-5, atol=1e-5)
    assert not any(target in rewrite.TARGETS for target in targets(graph)) or rewrite is hard_sigmoid
    return count


@pytest.mark.parametrize("name", choices.names("edgekit.lower.rewrites"))
def test_every_rewrite_is_named_after_its_file_and_says_what_it_helps(name: str) -> None:
    module = importlib.import_module(f"edgekit.lower.rewrites.{name}")
    assert name == module.NAME
    words = " ".join((module.__doc__ or "").split())
    assert any(f"Helps {engine}" in words for engine in ("LiteRT", "ONNX Runtime", "both"))
    assert "returns how many" in " ".join((inspect.getdoc(module.apply) or "").split())
    assert len(inspect.signature(module.apply).parameters) == 1
    assert inspect.signature(module.apply).return_annotation == "int"


# --- SiLU


@pytest.mark.parametrize("inplace", [False, True])
def test_silu_becomes_sigmoid_and_mul(inplace: bool) -> None:
    graph = float_graph(
        lambda net, x: net.b(functional.silu(net.a(x), inplace)), a=nets.conv(3, 8), b=nn.Conv2d(8, 4, 1)
    )
    assert rewritten(silu, graph) == 1
    assert {aten.sigmoid.default, aten.mul.Tensor} <= set(targets(graph))


def test_rewrites_return_zero_when_there_is_nothing_to_rewrite() -> None:
    graph = float_graph(lambda net, x: torch.relu(net.a(x)), a=nets.conv(3, 8))
    assert [rewritten(rewrite, graph) for rewrite in (silu, hard_swish, hard_sigmoid)] == [0, 0, 0]


# --- hard-swish


def sixths(graph: GraphModule) -> int:
    sixth = torch.tensor(1 / 6)
    return sum(value.numel() == 1 and bool(value.flatten()[0] == sixth) for _, value in graph.named_buffers())


def gated(net: Any, x: Tensor) -> Tensor:
    y = functional.hardswish(net.a(x))
    out: Tensor = net.b(y * torch.sigmoid(net.gate(y.mean((2, 3), keepdim=True))))
    return out


def squared_through_its_mean(net: Any, x: Tensor) -> Tensor:
    y = functional.hardswish(net.a(x))
    out: Tensor = net.b(y * y.mean((2, 3), keepdim=True))
    return out


ABSORBED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "conv": lambda net, x: net.b(functional.hardswish(net.a(x))),
    "in place": lambda net, x: net.b(functional.hardswish(net.a(x), inplace=True)),
    "two convs": lambda net, x: net.b(functional.hardswish(net.a(x))) + net.c(functional.hardswish(net.a(x))),
    "pool, flatten, linear": lambda net, x: net.linear(functional.hardswish(net.a(x)).mean((2, 3)).flatten(1)),
    "max pool, dropout, relu": lambda net, x: net.b(
        torch.relu(functional.dropout(functional.max_pool2d(functional.hardswish(net.a(x)), 2), 0.2, False))
    ),
    "pad with zeros": lambda net, x: net.b(
        functional.pad(functional.hardswish(net.a(x)), (0, 1, 0, 1), "constant", 0.0)
    ),
    "squeeze and excite": gated,
    "product with its own mean": squared_through_its_mean,
}


@pytest.mark.parametrize("case", ABSORBED)
def test_hard_swish_moves_its_sixth_into_later_weights(case: str) -> None:
    parts = {"a": nets.conv(3, 8), "b": nn.Conv2d(8, 4, 1), "c": nn.Conv2d(8, 4, 1), "gate": nn.Conv2d(8, 8, 1)}
    graph = float_graph(ABSORBED[case], **parts, linear=nn.Linear(8, 5))
    assert rewritten(hard_swish, graph) >= 1
    assert sixths(graph) == 0


def tied(net: Any, x: Tensor) -> Tensor:
    out: Tensor = net.b(functional.hardswish(net.a(x))) + net.b(net.a(x))
    return out


FALLS_BACK: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "output": lambda net, x: functional.hardswish(net.a(x)),
    "add": lambda net, x: net.b(functional.hardswish(net.a(x)) + net.a(x)),
    "conv and output": lambda net, x: (lambda y: net.b(y).mean() + y)(functional.hardswish(net.a(x))),
    "square": lambda net, x: (lambda y: net.b(y * y))(functional.hardswish(net.a(x))),
    "sigmoid": lambda net, x: net.b(torch.sigmoid(functional.hardswish(net.a(x)))),
    "relu6": lambda net, x: net.b(functional.relu6(functional.hardswish(net.a(x)))),
    "pad with a value": lambda net, x: net.b(functional.pad(functional.hardswish(net.a(x)), (1, 1, 1, 1), value=2.0)),
    "weights used twice": tied,
}


@pytest.mark.parametrize("case", FALLS_BACK)
def test_hard_swish_keeps_its_sixth_when_nothing_can_absorb_it(case: str) -> None:
    graph = float_graph(FALLS_BACK[case], a=nets.conv(3, 8), b=nn.Conv2d(8, 4, 1))
    weight = graph.get_parameter("b.weight").clone() if "b" in dict(graph.named_children()) else None
    assert rewritten(hard_swish, graph) == 1
    assert sixths(graph) == 1
    if weight is not None:
        assert torch.equal(graph.get_parameter("b.weight"), weight)


def test_hard_swish_chains_through_a_net() -> None:
    parts = {"a": nets.conv(3, 8, 3, nn.Hardswish), "b": nets.conv(8, 8, 3, nn.Hardswish), "c": nn.Conv2d(8, 4, 1)}
    graph = float_graph(lambda net, x: net.c(net.b(net.a(x))), **parts)
    assert rewritten(hard_swish, graph) == 2
    assert sixths(graph) == 0


# --- hard-sigmoid


@pytest.mark.parametrize("inplace", [False, True])
def test_hard_sigmoid_moves_into_the_weights_before_it(inplace: bool) -> None:
    graph = float_graph(lambda net, x: functional.hardsigmoid(net.a(x), inplace), a=nn.Conv2d(3, 8, 1))
    assert rewritten(hard_sigmoid, graph) == 1
    assert aten.hardsigmoid.default not in targets(graph)
    graph = float_graph(lambda net, x: functional.hardsigmoid(net.a(x.flatten(1))), a=nn.Linear(3072, 8))
    assert rewritten(hard_sigmoid, graph) == 1


ELSEWHERE: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "not behind weights": lambda net, x: functional.hardsigmoid(functional.max_pool2d(net.a(x), 2)),
    "no bias": lambda net, x: functional.hardsigmoid(net.plain(x)),
    "conv with two users": lambda net, x: (lambda y: functional.hardsigmoid(y) * y)(net.a(x)),
    "weights used twice": lambda net, x: functional.hardsigmoid(net.a(x)) + net.a(x * 0.5),
    "behind batch norm": lambda net, x: functional.hardsigmoid(net.normed(x)),
}


@pytest.mark.parametrize("case", ELSEWHERE)
def test_hard_sigmoid_becomes_a_clamped_sum_when_the_weights_are_not_its_own(case: str) -> None:
    parts = {"a": nn.Conv2d(3, 8, 1), "plain": nn.Conv2d(3, 8, 1, bias=False), "normed": nets.conv(3, 8)}
    graph = float_graph(ELSEWHERE[case], **parts)
    kept = copy.deepcopy(graph.state_dict())
    assert rewritten(hard_sigmoid, graph) == 1
    assert aten.hardsigmoid.default not in targets(graph)
    assert all(torch.equal(graph.state_dict()[name], value) for name, value in kept.items())


# --- average pools

POOLS: dict[str, tuple[Callable[[Any, Tensor], Tensor], int]] = {
    "2 by 2": (lambda net, x: functional.avg_pool2d(net.a(x), 2), 1),
    "3 by 3, padded": (lambda net, x: functional.avg_pool2d(net.a(x), 3, 2, 1), 1),
    "5 by 2": (lambda net, x: functional.avg_pool2d(net.a(x), (5, 2), (1, 3)), 1),
    "adaptive": (lambda net, x: functional.adaptive_avg_pool2d(net.a(x), (2, 4)), 1),
    "padding not counted": (lambda net, x: functional.avg_pool2d(net.a(x), 3, 2, 1, count_include_pad=False), 4),
    "ceil": (lambda net, x: functional.avg_pool2d(net.a(x), 3, 2, ceil_mode=True), 4),
    "uneven windows": (lambda net, x: functional.adaptive_avg_pool2d(net.a(x), (5, 5)), 9),
    "global": (lambda net, x: functional.adaptive_avg_pool2d(net.a(x), 1), 0),
}


@pytest.mark.parametrize("case", POOLS)
def test_average_pool_becomes_a_convolution_for_each_kind_of_window(case: str) -> None:
    run, count = POOLS[case]
    graph = float_graph(run, a=nets.conv(3, 8))
    images = nets.images(4, seed=3)
    before = nets.run(graph, images)
    assert average_pool.apply(graph) == bool(count)
    torch.testing.assert_close(nets.run(graph, images), before, rtol=1e-5, atol=1e-5)
    assert targets(graph).count(aten.conv2d.default) == 1 + count


def test_average_pool_whose_window_is_the_image_becomes_a_mean() -> None:
    graph = float_graph(lambda net, x: functional.avg_pool2d(net.a(x), x.shape[-2:]), a=nets.conv(3, 8))
    images = nets.images(4, seed=3)
    before = nets.run(graph, images)
    assert average_pool.matches(graph) == average_pool.apply(graph) == 1
    assert aten.adaptive_avg_pool2d.default in targets(graph)
    assert aten.avg_pool2d.default not in targets(graph)
    torch.testing.assert_close(nets.run(graph, images), before, rtol=1e-5, atol=1e-5)


# --- one spelling


def swapped(net: Any, x: Tensor) -> Tensor:
    low, high = net.a(x).chunk(2, 1)
    one, two, three = torch.split(torch.cat([high, low], 1), [2, 5, 1], 1)
    return torch.cat([three, one, two], 1)


def shuffled(net: Any, x: Tensor) -> Tensor:
    y = net.a(x)
    return y.view(-1, 2, 4, *y.shape[2:]).transpose(1, 2).contiguous().view(y.shape)  # type: ignore[no-any-return]


SPELLINGS: dict[str, tuple[Callable[[Any, Tensor], Tensor], set[object], set[object]]] = {
    "splits": (swapped, {aten.slice.Tensor}, {aten.chunk.default, aten.split_with_sizes.default}),
    "shuffle": (shuffled, {aten.reshape.default}, {aten.contiguous.default, aten.clone.default}),
    "numbers": (lambda net, x: (net.a(x) - 1) / 4 * 0.3 + 2, {aten.mul.Tensor}, {aten.div.Tensor, aten.sub.Tensor}),
    "hard-sigmoid": (lambda net, x: functional.relu6(net.a(x) + 3) / 6, {aten.hardsigmoid.default}, {aten.div.Tensor}),
    "hard-swish": (
        lambda net, x: (lambda y: y * (functional.relu6(y + 3.0) * (1 / 6)))(net.a(x)),
        {aten.hardswish.default},
        {aten.mul.Tensor, aten.hardsigmoid.default},
    ),
    "sigmoid in a concatenation": (
        lambda net, x: (lambda y: torch.cat([y, torch.sigmoid(y)], 1))(net.a(x)),
        {aten.mul.Tensor},
        set(),
    ),
}


@pytest.mark.parametrize("case", SPELLINGS)
def test_canonical_spelling_changes_no_value(case: str) -> None:
    run, there, gone = SPELLINGS[case]
    graph = float_graph(run, a=nets.conv(3, 8))
    images = nets.images(4, seed=3)
    before = nets.run(graph, images)
    canonical.apply(graph)
    graph.graph.lint()
    torch.testing.assert_close(nets.run(graph, images), before, rtol=1e-5, atol=1e-6)
    assert there <= set(targets(graph))
    assert not gone & set(targets(graph))


# --- saturation


def dropped(module: nn.Module, images: Tensor) -> tuple[int, GraphModule]:
    """Clamps that went, after checking that not one integer differs from the same graph with all its clamps."""
    counted = []

    def counting(graph: GraphModule) -> int:
        before = nets.run(graph, images)
        counted.append(saturation.apply(graph))
        torch.testing.assert_close(nets.run(graph, images), before, rtol=0, atol=0)
        return counted[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ptq, "saturation", type("Spy", (), {"NAME": "saturation", "apply": staticmethod(counting)}))
        graph = nets.quantize(module)
    return counted[0], graph


def test_saturation_drops_only_clamps_that_the_quantizer_implies() -> None:
    images = nets.images(8, seed=6)
    count, graph = dropped(nets.settled(nn.Sequential(nets.conv(3, 8, 3, nn.ReLU), nets.head(8))), images)
    assert count == 1  # the range starts at 0: nothing below it is left to clamp
    assert aten.relu.default not in targets(graph)
    beyond = nets.Net(lambda net, x: torch.clamp(net.a(x), -100.0, 100.0), a=nn.Conv2d(3, 8, 3))
    count, graph = dropped(nets.settled(beyond), images)
    assert count == 1


def test_saturation_keeps_a_clamp_by_itself() -> None:
    # Without it, a bare requantization is left, which TFLite's converter drops: the network lost its relu.
    module = nets.Net(lambda net, x: torch.relu(functional.max_pool2d(net.a(x), 2)), a=nn.Conv2d(3, 8, 3))
    count, graph = dropped(nets.settled(module), nets.images(4))
    assert count == 0
    assert aten.relu.default in targets(graph)


def test_saturation_keeps_a_clamp_whose_range_the_quantizer_exceeds() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        return torch.cat([functional.relu6(net.a(x)), net.b(x)], 1)  # one scale for both: the range starts below 0

    count, graph = dropped(nets.settled(nets.Net(run, a=nets.conv(3, 8), b=nets.conv(3, 8))), nets.images(4))
    assert count == 0
    assert aten.relu6.default in targets(graph)


def test_saturation_changes_no_integer_of_a_whole_net() -> None:
    count, graph = dropped(nets.settled(nets.Every()), nets.images(8, seed=9))
    assert count >= 6
    assert torch.equal(
        nets.run(graph, nets.images(4)), nets.run(integer_arithmetic.integer_graph(graph), nets.images(4))
    )


# --- rewrites of ONNX files, in ONNX Runtime with optimisations off


def outputs(model: onnx.ModelProto, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result: npt.NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: x})[0]
    return result


def reduce_mean(shape: list[int], axes: list[int], keepdims: int | None) -> onnx.ModelProto:
    attributes = {} if keepdims is None else {"keepdims": keepdims}
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["x"], ["r"]),
            helper.make_node("ReduceMean", ["r", "axes"], ["m"], "mean", **attributes),
            helper.make_node("Neg", ["m"], ["y"]),
        ],
        "mean",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array(axes, np.int64), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


@pytest.mark.parametrize("axes", [[2, 3], [3, 2], [-1, -2], [2, -1]])
@pytest.mark.parametrize("keepdims", [0, 1, None])
def test_global_average_pool_changes_no_value(axes: list[int], keepdims: int | None) -> None:
    model = reduce_mean([1, 5, 6, 7], axes, keepdims)
    x = np.random.default_rng(0).normal(size=(1, 5, 6, 7)).astype(np.float32)
    before = outputs(model, x)
    assert global_average_pool.apply(model) == 1
    onnx.checker.check_model(model, full_check=True)
    after = outputs(model, x)
    assert after.shape == before.shape
    np.testing.assert_allclose(after, before, rtol=1e-6)
    assert "ReduceMean" not in {node.op_type for node in model.graph.node}


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ([1, 5, 6, 7], [1]),
        ([1, 5, 6, 7], [3]),
        ([1, 5, 6, 7], [1, 2, 3]),
        ([1, 5, 6], [-1, -2]),
        ([1, 2, 5, 6, 7], [2, 3]),
    ],
)
def test_global_average_pool_leaves_other_means_alone(shape: list[int], axes: list[int]) -> None:
    model = reduce_mean(shape, axes, 1)
    before = model.SerializeToString()
    assert global_average_pool.apply(model) == 0
    assert model.SerializeToString() == before


def test_uint8_activations_change_no_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models: list[onnx.ModelProto] = []

    def spy(model: onnx.ModelProto) -> int:
        models.append(copy.deepcopy(model))
        count = uint8_activations.apply(model)
        models.append(copy.deepcopy(model))
        return count

    rewrite = type("Spy", (), {"NAME": "uint8_activations", "apply": staticmethod(spy)})
    others = tuple(each for each in to_onnx.REWRITES if each is not uint8_activations)
    monkeypatch.setattr(to_onnx, "REWRITES", (*others, rewrite))
    parts = [nets.conv(3, 16, 3, nn.Hardswish, stride=2), nets.Gate(16, nn.Sigmoid), nets.head(16)]
    to_onnx.export(nets.quantize(nets.settled(nn.Sequential(*parts))), nets.SIZE, "int8", tmp_path)
    before, after = models
    for image in nets.images(5, seed=2).numpy():
        np.testing.assert_array_equal(outputs(after, image[None]), outputs(before, image[None]))
    for model, expected in ((before, TensorProto.INT8), (after, TensorProto.UINT8)):
        kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
        assert {kinds[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"} == {expected}
        weights = {node.input[1] for node in model.graph.node if node.op_type in ("Conv", "Gemm")}
        stored = {kinds[node.input[0]] for node in model.graph.node if node.output[0] in weights}
        assert stored == {TensorProto.INT8}


def padded_conv(pads: list[int], mode: str = "constant", fill: float = 0.0) -> onnx.ModelProto:
    rng = np.random.default_rng(1)
    graph = helper.make_graph(
        [
            helper.make_node("Pad", ["x", "pads", "fill"], ["p"], "pad", mode=mode),
            helper.make_node("Conv", ["p", "w"], ["y"], "conv", strides=[2, 2], pads=[0, 1, 0, 0]),
        ],
        "padded",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 9])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(np.array(pads, np.int64), "pads"),
            numpy_helper.from_array(np.array(fill, np.float32), "fill"),
            numpy_helper.from_array(rng.normal(size=(4, 3, 3, 3)).astype(np.float32), "w"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


@pytest.mark.parametrize(
    ("pads", "mode", "fill", "count"),
    [
        ([0, 0, 0, 1, 0, 0, 2, 1], "constant", 0.0, 1),
        ([0, 0, 0, 1, 0, 0, 2, 1], "constant", 1.0, 0),
        ([0, 0, 1, 1, 0, 0, 1, 1], "reflect", 0.0, 0),
        ([0, 0, -1, 0, 0, 0, 1, 1], "constant", 0.0, 0),
    ],
)
def test_conv_padding_changes_no_value(pads: list[int], mode: str, fill: float, count: int) -> None:
    model = padded_conv(pads, mode, fill)
    x = np.random.default_rng(2).normal(size=(1, 3, 8, 9)).astype(np.float32)
    before = outputs(model, x)
    assert conv_padding.apply(model) == count
    np.testing.assert_allclose(outputs(model, x), before, rtol=1e-5, atol=1e-6)
    assert ("Pad" in {node.op_type for node in model.graph.node}) == (count == 0)


def first_layer(channels: int, width: int, groups: int = 1, zero_point: int = -3) -> onnx.ModelProto:
    """Quantized input, convolution with padding, quantized output."""
    rng = np.random.default_rng(3)
    weight = rng.integers(-127, 128, (width, channels // groups, 3, 3)).astype(np.int8)
    constants = {
        "scale": np.float32(0.02),
        "zero": np.int8(zero_point),
        "w": weight,
        "w_scale": rng.uniform(0.001, 0.002, width).astype(np.float32),
        "w_zero": np.zeros(width, np.int8),
        "out_scale": np.float32(0.05),
        "out_zero": np.int8(7),
    }
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
            helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["wd"], axis=0),
            helper.make_node("Conv", ["d", "wd"], ["c"], "conv", strides=[2, 2], pads=[1, 1, 1, 1], group=groups),
            helper.make_node("QuantizeLinear", ["c", "out_scale", "out_zero"], ["qc"]),
            helper.make_node("DequantizeLinear", ["qc", "out_scale", "out_zero"], ["y"]),
        ],
        "first",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, 9, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


@pytest.mark.parametrize(
    ("channels", "width", "groups", "count"), [(3, 16, 1, 1), (1, 24, 1, 1), (4, 16, 1, 0), (3, 8, 1, 0), (3, 18, 3, 0)]
)
@pytest.mark.parametrize("others", [(), (uint8_activations,)], ids=["alone", "then uint8"])
def test_four_channels_change_no_integer(
    channels: int, width: int, groups: int, count: int, others: tuple[Any, ...]
) -> None:
    model = first_layer(channels, width, groups)
    x = np.random.default_rng(4).normal(size=(1, channels, 9, 8)).astype(np.float32)
    before = outputs(model, x)
    assert four_channels.apply(model) == count
    for other in others:
        other.apply(model)
    onnx.checker.check_model(model, full_check=True)
    assert {node.op_type == "Pad" for node in model.graph.node} == ({False, True} if count else {False})
    np.testing.assert_array_equal(outputs(model, x), before)
    assert len(np.unique(before)) > 20
    assert four_channels.apply(model) == 0


def test_four_channels_leave_a_shared_input_alone() -> None:
    model = first_layer(3, 16)
    model.graph.node.append(helper.make_node("Relu", ["d"], ["z"]))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    assert four_channels.apply(model) == 0


# --- any choice of rewrites


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An int8 file on which each rewrite of ONNX files finds something to do."""

    def run(net: Any, x: Tensor) -> Tensor:
        y = net.down(functional.pad(net.stem(x), (0, 1, 0, 1)))
        y = net.gate(net.deep(net.wide(functional.hardswish(y))))
        return net.head(y.mean((2, 3), keepdim=True))  # type: ignore[no-any-return]

    parts = {
        "stem": nets.conv(3, 16, 3, nn.Hardswish, stride=2),
        "down": nn.Conv2d(16, 16, 3, 2),
        "wide": nets.conv(16, 28, 1, nn.ReLU6),
        "deep": nets.conv(28, 28, 3, nn.ReLU6, groups=28),
        "gate": nets.Gate(28, nn.Hardsigmoid),
        "head": nn.Sequential(nn.Conv2d(28, 10, 1), nn.Flatten()),
    }
    module = nets.settled(nets.Net(run, **parts))
    with torch.no_grad():
        for name, factor in (("stem.bn.weight", 4), ("down.weight", 1.5)):
            module.get_parameter(name).mul_(factor)  # hard-swish is flat on both sides: values below -3 and above 3
    return to_onnx.convert(nets.quantize(module), nets.SIZE, "int8", tmp_path_factory.mktemp("subsets"))


def test_byte_clip_leaves_no_sum_of_a_hard_swish(converted: bytes) -> None:
    model = onnx.load_from_string(converted)
    before = sum(node.op_type == "Add" for node in model.graph.node)
    assert byte_clip.apply(model) == before == 2
    assert not any(node.op_type == "Add" for node in model.graph.node)


def test_sixteen_channels_fill_a_depthwise_layer_and_what_shares_its_channels(converted: bytes) -> None:
    model = onnx.load_from_string(converted)
    assert sixteen_channels.apply(model) == 1
    onnx.checker.check_model(model, full_check=True)
    holders = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    sizes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    weights = [sizes[holders[node.input[1]]] for node in model.graph.node if node.op_type == "Conv"]
    assert [shape[:2] for shape in weights] == [(16, 3), (16, 16), (32, 16), (32, 1), (14, 32), (32, 14), (10, 32)]
    assert set(sizes) <= {name for node in model.graph.node for name in node.input}
    assert sixteen_channels.apply(model) == 0


@pytest.mark.parametrize("width", [32, 24, 40])
def test_sixteen_channels_leave_alone_what_fits_is_too_narrow_or_leaves_the_network(width: int) -> None:
    weight = helper.make_node("DequantizeLinear", ["w", "s", "zs"], ["wd"], axis=0)
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "one", "z"], ["xd"]),
        weight,
        helper.make_node("Conv", ["xd", "wd"], ["y"], "deep", group=width),
        helper.make_node("QuantizeLinear", ["y", "one", "z"], ["out"]),
    ]
    constants = {
        "w": np.ones((width, 1, 1, 1), np.int8),
        "s": np.ones(width, np.float32),
        "zs": np.zeros(width, np.int8),
        "one": np.float32(1),
        "z": np.int8(0),
    }
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    ports = [helper.make_tensor_value_info(name, TensorProto.INT8, (1, width, 4, 4)) for name in ("x", "out")]
    model = helper.make_model(helper.make_graph(nodes, "g", ports[:1], ports[1:], initializers))
    before = model.SerializeToString()
    assert sixteen_channels.apply(model) == 0
    assert model.SerializeToString() == before


def test_any_subset_of_the_rewrites_of_a_file_changes_no_integer(converted: bytes) -> None:
    names = [rewrite.NAME for rewrite in to_onnx.REWRITES]
    x = nets.images(1, seed=5).numpy()
    exact = outputs(onnx.load_from_string(converted), x)
    for size in range(len(names) + 1):
        for subset in itertools.combinations(names, size):
            data, applied = to_onnx.lowered(converted, subset)
            assert set(applied) == set(subset)
            model = onnx.load_from_string(data)
            onnx.checker.check_model(model, full_check=True)
            np.testing.assert_array_equal(outputs(model, x), exact, err_msg=str(subset))
