"""A clamp is dropped if its quantizer saturates within the clamp's bounds anyway: no value changes.

Helps both engines: an operator between a kernel and its quantizer keeps them from fusing (an add and its relu6 in
ONNX Runtime, a clamp to [0, 1] in TFLite, which has no such fused activation). A clamp on its own stays, as otherwise
nothing would be left to compute between its quantizers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgekit.graph.ops import BATCH_NORM, CLAMPS, DEQUANTIZE, QUANTIZE, WEIGHTED, bounds

NAME = "saturation"
SCOPE = "graph"
NEEDED = ""


def apply(graph: GraphModule) -> int:
    """Drop the clamps of a quantized graph that its quantizers imply, in place; returns how many."""
    count = 0
    for node in [node for node in graph.graph.nodes if node.target in CLAMPS]:
        low, high = bounds(node)
        source = node.args[0]
        implied = bool(node.users) and isinstance(source, Node) and source.target is not DEQUANTIZE
        for user in node.users:
            if user.target is not QUANTIZE:
                implied = False
                break
            scale, zero, qmin, qmax = user.args[1:5]
            slack = scale / 2  # up to half a step beyond still rounds to the bound
            implied &= (qmin - zero) * scale > low - slack and (qmax - zero) * scale < high + slack
        if implied:
            node.replace_all_uses_with(source)
            graph.graph.erase_node(node)
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
