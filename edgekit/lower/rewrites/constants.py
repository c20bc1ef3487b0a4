"""Sums and products with constants go into the weights before them: layer scale, residual factors, normalisation.

Helps both engines: fewer operators, and fewer roundings. A normalisation of the network's input, which has no weights
before it, goes into the first layers where that is exact, else it becomes one depthwise 1x1 convolution.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgekit.graph.ops import ADDS, BATCH_NORM, MULS, WEIGHTED, aten, constant
from edgekit.lower.affine import backward, fold

NAME = "constants"
SCOPE = "graph"
NEEDED = ""

Affine = tuple[Tensor, Tensor]
"""Scale and shift of each channel, float32 (channels,)."""


def apply(graph: GraphModule) -> int:
    """Rewrite every such operator of an exported float graph in place; returns how many."""
    done: set[Node] = set()
    for node in list(graph.graph.nodes):
        own = _affine(graph, node) if node not in done else None
        if own is None:
            continue
        source = _behind_dropout(node.args[0])
        if source.op == "placeholder":
            last, joined = node, own
            done.add(node)
            while (user := _sole_user(last)) is not None and (more := _affine(graph, user, source)) is not None:
                last, joined = user, (joined[0] * more[0], joined[1] * more[0] + more[1])
                done.add(last)
            fold(graph, last, source, *joined)
        elif backward(graph, source, *own):
            node.replace_all_uses_with(node.args[0])
            done.add(node)
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return len(done)


def matches(graph: GraphModule) -> int:
    """How many such operators a float graph has; some may stay, as others read what is before them."""
    return sum(_affine(graph, node) is not None for node in graph.graph.nodes)


def matters(graph: GraphModule) -> bool:
    """False: without it there are more operators, and no others."""
    return False


def _behind_dropout(node: Any) -> Node:
    """What a dropout that nothing else reads, and that does nothing in eval mode, passes on."""
    while node.target in (aten.dropout.default, aten.dropout_.default) and len(node.users) == 1:
        node = node.args[0]
    assert isinstance(node, Node)
    return node


def _sole_user(node: Node) -> Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 else None


def _affine(graph: GraphModule, node: Node, of: Node | None = None) -> Affine | None:
    """What ``x * C`` or ``x + C`` does to each channel of x, a layer's result or the network's input; else None.

    Args:
        graph: the node's.
        node: any.
        of: in place of x, what is known to have the same channels.
    """
    if node.target not in ADDS | MULS or node.kwargs or len(node.args) != 2:
        return None
    source, holder = node.args
    if not isinstance(source, Node) or not isinstance(holder, Node) or holder.op != "get_attr":
        return None
    from_ = of or _behind_dropout(source)
    if from_.op != "placeholder" and from_.target not in WEIGHTED | BATCH_NORM:
        return None
    shape, value = node.meta["val"].shape, constant(graph, holder).detach()
    axis = len(shape) - 1 if from_.target is aten.linear.default else 1
    extents = [*[1] * (len(shape) - value.dim()), *value.shape]
    if from_.meta["val"].shape != shape or any(size > 1 for place, size in enumerate(extents) if place != axis):
        return None
    each = value.float().flatten().expand(shape[axis])
    if node.target in MULS:
        return each, torch.zeros_like(each)
    return torch.ones_like(each), each
