"""A mean over height and width becomes GlobalAveragePool and Flatten.

Helps ONNX Runtime, which has an integer kernel for the pool (QLinearGlobalAveragePool) and none for ReduceMean, so
that the end of the network stays in integers.
"""

from __future__ import annotations

import onnx
from onnx import helper, numpy_helper

NAME = "global_average_pool"
SCOPE = "onnx"


def apply(model: onnx.ModelProto) -> int:
    """Rewrite every ReduceMean over the axes (2, 3) of a 4-D tensor in place; returns how many."""
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    images = {value.name for value in graph.value_info if len(value.type.tensor_type.shape.dim) == 4}
    nodes: list[onnx.NodeProto] = []
    count = 0
    for node in graph.node:
        if node.op_type != "ReduceMean" or node.input[0] not in images or not _over_pixels(node, constants):
            nodes.append(node)
            continue
        count += 1
        keeps = _attribute(node, "keepdims", 1)
        pooled = node.output[0] if keeps else f"{node.output[0]}_pooled"
        nodes.append(helper.make_node("GlobalAveragePool", [node.input[0]], [pooled], node.name))
        nodes[-1].metadata_props.extend(node.metadata_props)
        if not keeps:
            nodes.append(helper.make_node("Flatten", [pooled], [node.output[0]], f"{node.name}_flatten", axis=1))
    del graph.node[:]
    graph.node.extend(nodes)
    return count


def _over_pixels(node: onnx.NodeProto, constants: dict[str, object]) -> bool:
    axes = constants.get(node.input[1]) if len(node.input) > 1 else None
    return axes is not None and sorted(int(axis) % 4 for axis in axes) == [2, 3]  # type: ignore[attr-defined]


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == name), default)
