"""A batch norm that no convolution precedes goes into what is around it, or becomes a depthwise 1x1 convolution.

Helps both engines, which have no integer kernel for it. Torch's quantizer folds a batch norm into the layer before it
(`edgekit.lower.weights`) and leaves all others. After a concatenation of convolutions that nothing else reads (MixNet),
each gets its part, to be folded; for the rest see `edgekit.lower.affine`.
"""

from __future__ import annotations

from typing import Any

from torch.fx import GraphModule, Node

from edgekit.graph.ops import BATCH_NORM, WEIGHTED, aten, constant
from edgekit.lower.affine import fold, hold, of_norm

NAME = "batch_norm"
SCOPE = "graph"
NEEDED = "batch norms without a convolution would compute in float"
TAKING = {
    aten.conv1d.default,
    aten.conv1d.padding,
    aten.conv3d.default,
    aten.conv3d.padding,
    aten.conv_transpose1d.default,
    aten.conv_transpose2d.input,
    aten.conv_transpose3d.input,
}
"""Layers besides `WEIGHTED` that torch's quantizer folds a batch norm into, whoever else reads them."""


def apply(graph: GraphModule) -> int:
    """Rewrite every batch norm of an exported float graph that no convolution can take, in place; returns how many."""
    found = [node for node in graph.graph.nodes if _is_alone(node)]
    for node in found:
        source: Any = node.args[0]
        parts = _parts(source)
        if parts:
            _distribute(graph, node, parts)
        else:
            fold(graph, node, source, *of_norm(graph, node))
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return len(found)


def matches(graph: GraphModule) -> int:
    """How many batch norms of a float graph no convolution can take."""
    return sum(_is_alone(node) for node in graph.graph.nodes)


def matters(graph: GraphModule) -> bool:
    """Always: other operators run."""
    return True


def _is_alone(node: Node) -> bool:
    if node.target not in BATCH_NORM or node.args[3] is None or node.args[5]:
        return False
    source: Any = node.args[0]
    return source.target not in WEIGHTED and (source.target not in TAKING or len(source.users) > 1)


def _parts(source: Node) -> list[Node]:
    """The convolutions whose channels are concatenated here and read nowhere else; empty if it is not so."""
    if source.target is not aten.cat.default or len(source.users) > 1 or source.args[1:] not in ((1,), (-3,)):
        return []
    parts: Any = source.args[0]
    own = all(part.target in WEIGHTED - {aten.linear.default} and len(part.users) == 1 for part in parts)
    return list(parts) if own and len(set(parts)) == len(parts) else []


def _distribute(graph: GraphModule, node: Node, parts: list[Node]) -> None:
    """``bn(cat(a, b))`` becomes ``cat(bn(a), bn(b))``."""
    cat: Any = node.args[0]
    arguments: Any = node.args
    target: Any = node.target
    start = 0
    for part in parts:
        stop = start + int(part.meta["val"].shape[1])
        with graph.graph.inserting_before(cat):
            holders = [
                None if holder is None else hold(graph, f"{node.name}_part", constant(graph, holder)[start:stop])
                for holder in arguments[1:5]
            ]
            own = graph.graph.call_function(target, (part, *holders, *arguments[5:]))
        own.meta.update(part.meta)
        cat.replace_input_with(part, own)
        start = stop
    node.replace_all_uses_with(cat)
    graph.graph.erase_node(node)
