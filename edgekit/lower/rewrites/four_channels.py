"""The image is padded to four channels for the first convolution: the new channel and its weights are zero.

Helps ONNX Runtime on x86, whose indirect convolution kernels (ConvSym in MLAS) take input channels in fours; with
three it first copies every patch of the image, and the first layer becomes the slowest of the network.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

NAME = "four_channels"
SCOPE = "onnx"
ALIGNMENT = 4
LEAST_OUTPUTS = 16
"""Least output channels for which that kernel pays off."""


def apply(model: onnx.ModelProto) -> int:
    """Rewrite every quantized convolution of the network's input, in place; returns how many."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    producer = {output: node for node in graph.node for output in node.output}
    users = [name for node in graph.node for name in node.input]
    inputs = {value.name for value in graph.input}
    count = 0
    for conv in [node for node in graph.node if node.op_type == "Conv"]:
        source, holder = (producer.get(name) for name in conv.input[:2])
        if source is None or holder is None or {source.op_type, holder.op_type} != {"DequantizeLinear"}:
            continue
        quantizer, weight = producer.get(source.input[0]), constants.get(holder.input[0])
        if quantizer is None or quantizer.op_type != "QuantizeLinear" or quantizer.input[0] not in inputs:
            continue
        if weight is None or not weight.dims[1] % ALIGNMENT or weight.dims[0] < LEAST_OUTPUTS or _grouped(conv):
            continue
        if any(users.count(name) > 1 for name in (*conv.input[:2], weight.name)):
            continue
        missing = -weight.dims[1] % ALIGNMENT
        values = numpy_helper.to_array(weight)
        zeros = np.zeros((len(values), missing, *values.shape[2:]), values.dtype)
        weight.CopyFrom(numpy_helper.from_array(np.concatenate([values, zeros], 1), weight.name))
        amounts = numpy_helper.from_array(np.array([0, 0, 0, 0, 0, missing, 0, 0]), f"{conv.name}_fill_amounts")
        graph.initializer.append(amounts)
        filled = f"{source.input[0]}_filled"
        zero_point = source.input[2]  # by name, so that it becomes uint8 with the rest
        pad = helper.make_node("Pad", [source.input[0], amounts.name, zero_point], [filled], f"{conv.name}_fill")
        graph.node.insert(list(graph.node).index(source), pad)
        source.input[0] = filled
        _forget_shapes(graph, {source.output[0], holder.output[0], weight.name})
        count += 1
    return count


def _grouped(conv: onnx.NodeProto) -> bool:
    return any(attribute.name == "group" and attribute.i != 1 for attribute in conv.attribute)


def _forget_shapes(graph: onnx.GraphProto, names: set[str]) -> None:
    kept = [value for value in graph.value_info if value.name not in names]
    del graph.value_info[:]
    graph.value_info.extend(kept)
