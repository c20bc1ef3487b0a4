"""int8 activations become uint8 with the zero point moved by 128: the same values in different bytes.

Helps ONNX Runtime on x86, whose fastest integer kernels multiply uint8 by int8. Weights stay int8.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

NAME = "uint8_activations"
SCOPE = "onnx"


WEIGHTED = ("Conv", "Gemm", "MatMul", "ConvTranspose")
BYTES = ("Pad", "Clip")
"""Operators that other rewrites apply to quantized values, with quantized values among their constants."""


def apply(model: onnx.ModelProto) -> int:
    """Rewrite the per-tensor Q/DQ nodes of activations and their constant operands, in place; returns how many."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    operands = {name for node in graph.node if node.op_type in WEIGHTED for name in node.input[1:]}
    weights = {node.output[0] for node in graph.node if {*node.output} & operands and node.input[0] in constants}
    moved: dict[str, str] = {}
    count = 0
    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or node.output[0] in weights:
            continue
        zero_point = constants[node.input[2]]
        if zero_point.data_type != onnx.TensorProto.INT8 or list(zero_point.dims) not in ([], [1]):
            continue
        node.input[2] = moved.setdefault(zero_point.name, f"{zero_point.name}_uint8")
        if node.input[0] in constants:
            node.input[0] = moved.setdefault(node.input[0], f"{node.input[0]}_uint8")
        count += 1
    for node in graph.node:
        for place, name in enumerate(node.input):
            if node.op_type in BYTES and name in constants and constants[name].data_type == onnx.TensorProto.INT8:
                node.input[place] = moved.setdefault(name, f"{name}_uint8")
    for old, new in moved.items():
        shifted = (numpy_helper.to_array(constants[old]).astype(np.int16) + 128).astype(np.uint8)
        graph.initializer.append(numpy_helper.from_array(shifted, new))
    _drop_unused(graph)
    _forget_types(graph)
    return count


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _forget_types(graph: onnx.GraphProto) -> None:
    """Recorded types of the rewritten tensors are wrong now; engines infer them again."""
    quantized = {node.output[0] for node in graph.node if node.op_type in ("QuantizeLinear", *BYTES)}
    kept = [value for value in graph.value_info if value.name not in quantized]
    del graph.value_info[:]
    graph.value_info.extend(kept)
