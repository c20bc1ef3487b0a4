"""Hard-swish becomes a saturating add and a multiplication: ``x * relu6(x + 3)``, with the 1/6 in later weights.

Helps LiteRT, whose XNNPACK has no int8 HARD_SWISH, so that it splits a network into many delegate partitions, and
ONNX Runtime, which computes HardSwish in float. relu6 costs nothing: the integer add saturates at its output range.
"""

from __future__ import annotations

from torch.fx import GraphModule

from edgekit.graph.ops import aten
from edgekit.lower import factors
from edgekit.lower.canonical import constant

NAME = "hard_swish"
SCOPE = "graph"
NEEDED = ""
TARGETS = {aten.hardswish.default, aten.hardswish_.default}


def apply(graph: GraphModule) -> int:
    """Rewrite every hard-swish of an exported float graph in place; returns how many."""
    nodes = [node for node in graph.graph.nodes if node.target in TARGETS]
    for node in nodes:
        folded = factors.absorb(graph, node, 1 / 6)
        x = node.args[0]
        with graph.graph.inserting_before(node):
            three = constant(graph, node, 3.0)
            shifted = graph.graph.call_function(aten.add.Tensor, (x, three))
            clamped = graph.graph.call_function(aten.hardtanh.default, (shifted, 0.0, 6.0))
            result = graph.graph.call_function(aten.mul.Tensor, (x, clamped))
            made = [shifted, clamped, result]
            if not folded:
                sixth = constant(graph, node, 1 / 6)
                result = graph.graph.call_function(aten.mul.Tensor, (result, sixth))
                made.append(result)
        for new in made:
            new.meta.update(node.meta)
        node.replace_all_uses_with(result)
        graph.graph.erase_node(node)
    graph.recompile()
    return len(nodes)


def matches(graph: GraphModule) -> int:
    """How many such operators a float graph has."""
    return sum(node.target in TARGETS for node in graph.graph.nodes)


def matters(graph: GraphModule) -> bool:
    """Always: other operators run."""
    return True
