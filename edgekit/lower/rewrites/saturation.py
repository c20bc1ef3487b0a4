"""A clamp is dropped if its quantizer saturates within the clamp's bounds anyway: no value changes.

Where only the upper bound is implied, as with zero points of 0, it becomes the relu that every kernel can apply.

Helps both engines: an operator between a kernel and its quantizer keeps them from fusing (an add and its relu6 in
ONNX Runtime, a clamp to [0, 1] in TFLite, which has no such fused activation). A clamp on its own stays, as otherwise
nothing would be left to compute between its quantizers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgekit.graph.ops import BATCH_NORM, CLAMPS, DEQUANTIZE, QUANTIZE, WEIGHTED, aten, bounds

NAME = "saturation"
SCOPE = "graph"
NEEDED = ""


def apply(graph: GraphModule) -> int:
    """Drop the clamps of a quantized graph that its quantizers imply, in place; returns how many."""
    count = 0
    for node in [node for node in graph.graph.nodes if node.target in CLAMPS]:
        low, high = bounds(node)
        source = node.args[0]
        if not node.users or not isinstance(source, Node) or source.target is DEQUANTIZE:
            continue
        if any(user.target is not QUANTIZE for user in node.users):
            continue
        above = below = symmetric = True
        for user in node.users:
            scale, zero, qmin, qmax = user.args[1:5]
            slack = scale / 2  # up to half a step beyond still rounds to the bound
            above &= (qmin - zero) * scale > low - slack
            below &= (qmax - zero) * scale < high + slack
            symmetric &= zero == 0
        if above and below:
            node.replace_all_uses_with(source)
            graph.graph.erase_node(node)
            count += 1
        elif symmetric and below and low == 0 and high < torch.inf and source.target in WEIGHTED:
            node.target, node.args, node.kwargs = aten.relu.default, (source,), {}
            count += 1
    graph.recompile()
    return count


def matches(graph: GraphModule) -> int:
    """How many clamps a float graph has."""
    return sum(node.target in CLAMPS for node in graph.graph.nodes)


def matters(graph: GraphModule) -> bool:
    """False if each clamp of a float graph is a ReLU or ReLU6 after a convolution, which applies it for free."""
    return not all(_free(node) for node in graph.graph.nodes if node.target in CLAMPS)


def _free(clamp: Node) -> bool:
    source: Any = clamp.args[0]
    while source.target in BATCH_NORM:
        source = source.args[0]
    return source.target in WEIGHTED and bounds(clamp) in ((0.0, torch.inf), (0.0, 6.0))
