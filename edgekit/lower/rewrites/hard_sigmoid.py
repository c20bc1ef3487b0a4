"""Hard-sigmoid becomes a clamp: after a convolution ``clamp(conv(x), 0, 1)``, with 1/6 and 1/2 folded into the weights.

Elsewhere it becomes ``relu6(x + 3)``, with the 1/6 moved into later weights. Helps both engines: neither has an integer
hard-sigmoid, so each squeeze-and-excite gate would run in float. The clamp costs nothing: the convolution or the add
saturates at its output range.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgekit.graph.ops import WEIGHTED, aten, constant
from edgekit.lower import factors
from edgekit.lower.canonical import constant as new_constant

NAME = "hard_sigmoid"
SCOPE = "graph"
NEEDED = ""
TARGETS = {aten.hardsigmoid.default, aten.hardsigmoid_.default}


def apply(graph: GraphModule) -> int:
    """Rewrite every hard-sigmoid of an exported float graph in place; returns how many."""
    nodes = [node for node in graph.graph.nodes if node.target in TARGETS]
    for node in nodes:
        source: Any = node.args[0]
        if source.target in WEIGHTED and len(source.users) == 1 and _own_constants(source):
            weight, bias = (constant(graph, holder) for holder in source.args[1:3])
            with torch.no_grad():
                weight.div_(6)
                bias.div_(6).add_(0.5)
            made = [_insert(graph, node, aten.hardtanh.default, source, 0.0, 1.0)]
        else:
            folded = factors.absorb(graph, node, 1 / 6)
            made = [_insert(graph, node, aten.add.Tensor, source, new_constant(graph, node, 3.0))]
            made.append(_insert(graph, node, aten.hardtanh.default, made[-1], 0.0, 6.0))
            if not folded:
                made.append(_insert(graph, node, aten.mul.Tensor, made[-1], new_constant(graph, node, 1 / 6)))
        node.replace_all_uses_with(made[-1])
        graph.graph.erase_node(node)
    graph.recompile()
    return len(nodes)


def matches(graph: GraphModule) -> int:
    """How many such operators a float graph has."""
    return sum(node.target in TARGETS for node in graph.graph.nodes)


def matters(graph: GraphModule) -> bool:
    """Always: other operators run."""
    return True


def _insert(graph: GraphModule, node: Node, target: Any, *arguments: Any) -> Node:
    with graph.graph.inserting_before(node):
        new = graph.graph.call_function(target, arguments)
    new.meta.update(node.meta)
    return new


def _own_constants(source: Node) -> bool:
    """Whether weight and bias exist and no other node uses them."""
    constants: Any = source.args[1:3]
    return len(constants) == 2 and all(
        isinstance(holder, Node) and holder.op == "get_attr" and len(holder.users) == 1 for holder in constants
    )
