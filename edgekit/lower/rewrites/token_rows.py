"""A linear layer of tokens, or of channel-last images, takes a matrix with one row for each.

Helps ONNX Runtime, which has no integer kernel with a bias for more than two axes.
"""

from __future__ import annotations

from typing import Any

from torch.fx import GraphModule, Node

from edgekit.graph.ops import CLAMPS, aten

NAME = "token_rows"
SCOPE = "graph"
NEEDED = "linear layers with more than two axes would compute in float in ONNX"


def apply(graph: GraphModule) -> int:
    """Rewrite every such layer of an exported float graph in place; returns how many."""
    found = [node for node in graph.graph.nodes if _has_more_axes(node)]
    for node in found:
        _rows(graph, node)
    graph.recompile()
    return len(found)


def matches(graph: GraphModule) -> int:
    """How many such layers a float graph has."""
    return sum(_has_more_axes(node) for node in graph.graph.nodes)


def matters(graph: GraphModule) -> bool:
    """Always: other operators run."""
    return True


def _has_more_axes(node: Node) -> bool:
    return node.target is aten.linear.default and node.meta["val"].dim() > 2


def _rows(graph: GraphModule, linear: Node) -> None:
    """Reshape to two axes before a linear layer, and back after it and the clamp that it applies."""
    source: Any = linear.args[0]
    shape = [int(extent) for extent in linear.meta["val"].shape]
    users = list(linear.users)
    last = users[0] if len(users) == 1 and users[0].target in CLAMPS else linear
    wide = int(source.meta["val"].shape[-1])
    with graph.graph.inserting_before(linear):
        flat = graph.graph.call_function(aten.reshape.default, (source, [-1, wide]))
    flat.meta.update(source.meta)
    flat.meta["val"] = source.meta["val"].reshape(-1, wide)
    linear.update_arg(0, flat)
    with graph.graph.inserting_after(last):
        back = graph.graph.call_function(aten.reshape.default, (last, shape))
    back.meta.update(last.meta)
    last.replace_all_uses_with(back, lambda user: user is not back)
    for node in {linear, last}:
        node.meta["val"] = node.meta["val"].reshape(-1, shape[-1])
