"""Smaller weights in a float .onnx file: half, int8, and int8 with dynamically quantized inputs.

Weights are stored small and restored by Cast and Mul, which ONNX Runtime computes once, when it loads the file; it
would compute a DequantizeLinear at every inference. Its own `quantize_dynamic` supports only per-tensor scales for
convolutions, so `dynamic` is written here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekit.graph.onnx_floats import GUARD, float_nodes

Array = npt.NDArray[Any]


def apply(data: bytes, precision: str) -> bytes:
    """Store the weights of a float file, which are already on the grid of `precision`, in that precision.

    Args:
        data: an .onnx file in float32.
        precision: "fp16", "weight_only" or "dynamic".
    """
    model = onnx.load_from_string(data)
    editor = _Editor(model.graph)
    for node in list(model.graph.node):
        axis = _channel_axis(node)
        weight = editor.constants.get(node.input[1]) if axis is not None else None
        if weight is None or weight.data_type != TensorProto.FLOAT:
            continue
        assert axis is not None
        if precision == "fp16":
            editor.store_half(node)
        elif precision == "dynamic" and _is_dense(node):
            editor.compute_in_integers(node, axis)
        else:
            editor.store_int8(node, axis)
    editor.finish()
    stored: bytes = model.SerializeToString(deterministic=True)
    return stored


LOOSE = {"ConvTranspose", "LeakyRelu", "LogSoftmax", "Resize", "Sigmoid", "Softmax", "Where"}
"""Operators that ONNX Runtime computes in integers between a DequantizeLinear and a QuantizeLinear, but not exactly."""


def keep_float(data: bytes) -> bytes:
    """A quantized file in which layers with float weights, and other float operators, stay float in ONNX Runtime.

    ONNX Runtime itself quantizes such weights, with one scale for all channels, if the input comes from a
    DequantizeLinear and the output goes to a QuantizeLinear (its WeightBiasQuantization). A clamp that passes every
    value, between the DequantizeLinear and the layer, prevents that; so it does for the operators of `LOOSE`.
    """
    model = onnx.load_from_string(data)
    constants = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    dequantized = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    floats = {node.output[0] for node in float_nodes(model.graph)}
    nodes = []
    for node in model.graph.node:
        weighted = _channel_axis(node) is not None and constants.get(node.input[1]) == TensorProto.FLOAT
        loose = node.op_type in LOOSE and node.output[0] in floats
        if (weighted or loose) and node.input[0] in dequantized:
            guard = f"{GUARD}{node.name}"
            nodes.append(helper.make_node("Clip", [node.input[0], f"{GUARD}least"], [guard], guard))
            node.input[0] = guard
        nodes.append(node)
    if len(nodes) > len(model.graph.node):
        least = np.array(np.finfo(np.float32).min, np.float32)
        model.graph.initializer.append(numpy_helper.from_array(least, f"{GUARD}least"))
        _replace(model.graph.node, nodes)
    stored: bytes = model.SerializeToString(deterministic=True)
    return stored


def unshare_constants(graph: onnx.GraphProto) -> None:
    """Give each use of a quantized constant a DequantizeLinear, a constant and a zero point of its own, in place.

    On x86 without VNNI, ONNX Runtime adds products of uint8 and int8 in pairs that saturate in int16, unless it turns
    weights into uint8 (``session.x64quantprecision``), and that fails for weights and zero points that are shared.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    sources = {
        node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in constants
    }
    nodes: list[onnx.NodeProto] = []
    taken: set[str] = set()
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in sources and name in taken:
                copy = onnx.NodeProto.FromString(sources[name].SerializeToString())
                copy.name, copy.output[0] = (f"{word}_{len(nodes)}" for word in (copy.name, name))
                node.input[place] = copy.output[0]
                nodes.append(copy)
            taken.add(name)
        nodes.append(node)
    if len(nodes) > len(graph.node):
        _replace(graph.node, nodes)
    taken.clear()
    for node in graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in constants:
            continue
        for place in range(0, len(node.input), 2):  # the scale may be shared
            name = node.input[place]
            if name in taken:
                tensor = onnx.TensorProto.FromString(constants[name].SerializeToString())
                tensor.name = node.input[place] = f"{node.output[0]}_{'zero_point' if place else 'quantized'}"
                graph.initializer.append(tensor)
            taken.add(name)


def _replace(field: Any, values: Sequence[Any]) -> None:
    """Replace the contents of a repeated field; the new ones may include old ones."""
    copies = [type(value).FromString(value.SerializeToString()) for value in values]
    del field[:]
    field.extend(copies)


class _Editor:
    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.first: list[onnx.NodeProto] = []
        self.instead: dict[str, list[onnx.NodeProto]] = {}
        self.quantized: set[str] = set()

    def store_half(self, node: onnx.NodeProto) -> None:
        name = node.input[1]
        self.add(f"{name}_half", numpy_helper.to_array(self.constants[name]).astype(np.float16))
        node.input[1] = f"{name}_float"
        self.restore(helper.make_node("Cast", [f"{name}_half"], [node.input[1]], to=TensorProto.FLOAT))

    def store_int8(self, node: onnx.NodeProto, axis: int) -> None:
        name = node.input[1]
        steps, scales = _steps(numpy_helper.to_array(self.constants[name]), axis)
        self.add(f"{name}_int8", steps)
        self.add(f"{name}_scale", scales)
        node.input[1] = f"{name}_float"
        self.restore(helper.make_node("Cast", [f"{name}_int8"], [f"{name}_steps"], to=TensorProto.FLOAT))
        self.restore(helper.make_node("Mul", [f"{name}_steps", f"{name}_scale"], [node.input[1]]))

    def compute_in_integers(self, node: onnx.NodeProto, axis: int) -> None:
        """Insert DynamicQuantizeLinear, the integer operator, and its int32 sums times both scales plus the bias."""
        source, name, result = node.input[0], node.input[1], node.output[0]
        steps, scales = _steps(numpy_helper.to_array(self.constants[name]), axis)
        convolution = node.op_type == "Conv"
        if not convolution and axis == 0:
            steps, scales = steps.T.copy(), scales.T.copy()
        behind = (1, -1, 1, 1) if convolution else (-1,)
        self.add(f"{name}_int8", steps)
        self.add(f"{name}_scale", scales.reshape(behind))
        nodes = []
        if source not in self.quantized:
            self.quantized.add(source)
            names = [f"{source}_{part}" for part in ("steps", "scale", "zero")]
            nodes.append(helper.make_node("DynamicQuantizeLinear", [source], names))
        operands = [f"{source}_steps", f"{name}_int8", f"{source}_zero"]
        integer = helper.make_node("ConvInteger" if convolution else "MatMulInteger", operands, [f"{result}_sums"])
        if convolution:
            integer.attribute.extend(node.attribute)
        nodes += [
            integer,
            helper.make_node("Cast", [f"{result}_sums"], [f"{result}_float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{source}_scale", f"{name}_scale"], [f"{result}_factor"]),
        ]
        bias = node.input[2] if len(node.input) > 2 else ""
        unbiased = f"{result}_unbiased" if bias else result
        nodes.append(helper.make_node("Mul", [f"{result}_float", f"{result}_factor"], [unbiased]))
        if bias:
            self.add(f"{bias}_behind_{result}", numpy_helper.to_array(self.constants[bias]).reshape(behind))
            nodes.append(helper.make_node("Add", [unbiased, f"{bias}_behind_{result}"], [result]))
        self.instead[result] = nodes

    def add(self, name: str, value: Array) -> None:
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(value, name)

    def restore(self, node: onnx.NodeProto) -> None:
        if all(node.output[0] != other.output[0] for other in self.first):
            self.first.append(node)

    def finish(self) -> None:
        """Put new nodes in their places and remove unused constants."""
        nodes = list(self.first)
        for node in self.graph.node:
            nodes.extend(self.instead.get(node.output[0], [node]))
        for place, node in enumerate(nodes):
            node.name = node.name or f"node_{node.op_type}_{place}"
        used = {name for node in nodes for name in node.input}
        kept = [tensor for name, tensor in self.constants.items() if name in used]
        _replace(self.graph.node, nodes)
        _replace(self.graph.initializer, kept)


def _channel_axis(node: onnx.NodeProto) -> int | None:
    """Output-channel axis of a node's weight; None for a node without a weight."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm" and not _attribute(node, "transA", 0):
        return 0 if _attribute(node, "transB", 0) else 1
    return 1 if node.op_type == "MatMul" else None


def _is_dense(node: onnx.NodeProto) -> bool:
    return _attribute(node, "group", 1) == 1


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == name), default)


def _steps(weight: Array, axis: int) -> tuple[Array, Array]:
    """int8 steps of a weight on its grid, and the scales in a shape that broadcasts with them."""
    others = tuple(place for place in range(weight.ndim) if place != axis)
    largest = np.abs(weight).max(axis=others, keepdims=True)
    scales = np.where(largest > 0, largest / np.float32(127), np.float32(1)).astype(np.float32)
    return np.rint(weight / scales).astype(np.int8), scales
