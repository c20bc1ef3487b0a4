"""SiLU (swish) becomes a sigmoid and a multiplication, both of which have integer kernels in both engines.

Helps LiteRT, whose converter otherwise splits it in float, and ONNX Runtime.
"""

from __future__ import annotations

from torch.fx import GraphModule

from edgekit.graph.ops import aten

NAME = "silu"
SCOPE = "graph"
NEEDED = ""
TARGETS = {aten.silu.default, aten.silu_.default}


def apply(graph: GraphModule) -> int:
    """Rewrite every SiLU of an exported float graph in place; returns how many."""
    nodes = [node for node in graph.graph.nodes if node.target in TARGETS]
    for node in nodes:
        with graph.graph.inserting_before(node):
            gate = graph.graph.call_function(aten.sigmoid.default, (node.args[0],))
            result = graph.graph.call_function(aten.mul.Tensor, (node.args[0], gate))
        for new in (gate, result):
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
