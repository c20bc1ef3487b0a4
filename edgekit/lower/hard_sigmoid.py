"""Hard-sigmoid behind a convolution becomes ``clamp(conv(x), 0, 1)`` with the 1/6 and the 1/2 in the weights.

Helps both engines: neither has an integer hard-sigmoid, so that each squeeze-and-excite gate left the integers. The
clamp costs nothing: the convolution saturates at its output range.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgekit.ops import WEIGHTED, aten, constant

NAME = "hard_sigmoid"
TARGETS = {aten.hardsigmoid.default, aten.hardsigmoid_.default}


def apply(graph: GraphModule) -> int:
    """Rewrite every hard-sigmoid that directly follows a weighted operator with a bias; returns how many."""
    count = 0
    for node in [node for node in graph.graph.nodes if node.target in TARGETS]:
        source: Any = node.args[0]
        if source.target not in WEIGHTED or len(source.users) != 1 or not _own_constants(source):
            continue
        weight, bias = (constant(graph, holder) for holder in source.args[1:3])
        with torch.no_grad():
            weight.div_(6)
            bias.div_(6).add_(0.5)
        with graph.graph.inserting_before(node):
            clamped = graph.graph.call_function(aten.hardtanh.default, (source, 0.0, 1.0))
        clamped.meta.update(node.meta)
        node.replace_all_uses_with(clamped)
        graph.graph.erase_node(node)
        count += 1
    graph.recompile()
    return count


def _own_constants(source: Node) -> bool:
    """Weight and bias are there and nobody else uses them."""
    constants: Any = source.args[1:3]
    return len(constants) == 2 and all(
        isinstance(holder, Node) and holder.op == "get_attr" and len(holder.users) == 1 for holder in constants
    )
