"""Which operators of an .onnx file an engine has to compute in float. No torch here: `edgekit inspect` uses it too."""

from __future__ import annotations

import functools

import onnx

GUARD = "keep_float_"
"""Prefix of the names of nodes that `edgekit.export.onnx_weights.keep_float` adds."""
MOVING = {
    "Concat",
    "DepthToSpace",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "Reshape",
    "Shape",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
}
"""Operators that move values without computing."""
INTEGER = {
    "Add",
    "AveragePool",
    "Concat",
    "Conv",
    "Gemm",
    "GlobalAveragePool",
    "MatMul",
    "MaxPool",
    "Mul",
    "Pad",
    "Sigmoid",
}
"""Operators that ONNX Runtime computes in integers between a DequantizeLinear and a QuantizeLinear."""
FUSED = {"Clip", "Relu"}
"""Activations that an integer kernel absorbs if they are between it and its QuantizeLinear."""


def moves(node: onnx.NodeProto) -> bool:
    """Whether an operator moves values without computing; a Resize does if it takes the nearest."""
    if node.op_type == "Resize":
        return all(each.s == b"nearest" for each in node.attribute if each.name == "mode")
    return bool(node.op_type in MOVING)


def float_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Nodes that an engine has to compute in float: not between DequantizeLinear and QuantizeLinear.

    A clamp counts as part of the operator before it.
    """
    producer = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name: tensor.data_type for tensor in graph.initializer}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)

    @functools.cache
    def starts_dequantized(name: str) -> bool:
        source = producer.get(name)
        if source is None:
            return bool(constants.get(name, onnx.TensorProto.FLOAT) != onnx.TensorProto.FLOAT)
        if moves(source) or source.op_type in FUSED:
            return starts_dequantized(source.input[0])
        return bool(source.op_type == "DequantizeLinear")

    @functools.cache
    def ends_quantized(name: str) -> bool:
        following = users.get(name, [])
        return bool(following) and all(
            user.op_type == "QuantizeLinear"
            or ((moves(user) or user.op_type in FUSED) and all(ends_quantized(each) for each in user.output))
            for user in following
        )

    floats = []
    for node in graph.node:
        if moves(node) or node.op_type in ("QuantizeLinear", "DequantizeLinear", "Constant"):
            continue
        source = producer.get(node.input[0]) if node.input else None
        if node.name.startswith(GUARD):
            continue
        if source is not None and source.op_type == "QuantizeLinear":  # works on the integers themselves
            continue
        if node.op_type in FUSED and source is not None and not moves(source) and source.op_type != "DequantizeLinear":
            continue
        operands = node.input[:2]  # the third is a bias, which may be float
        integer = node.op_type in INTEGER and all(starts_dequantized(name) for name in operands)
        if not (integer and ends_quantized(node.output[0])):
            floats.append(node)
    return floats
