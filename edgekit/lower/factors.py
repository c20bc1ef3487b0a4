"""Moving a constant factor forward into the weights that consume it."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgekit.graph.ops import WEIGHTED, aten, constant

PASSING = {
    aten.mean.dim,
    aten.adaptive_avg_pool2d.default,
    aten.avg_pool2d.default,
    aten.max_pool2d.default,
    aten.relu.default,
    aten.relu_.default,
    aten.dropout.default,
    aten.dropout_.default,
    aten.flatten.using_ints,
    aten.reshape.default,
    aten.view.default,
    aten.permute.default,
    aten.pad.default,
    aten.mul.Tensor,
    aten.mul_.Tensor,
}
"""Operators with f(c x) = c f(x) for c > 0, in each argument."""


def absorb(graph: GraphModule, node: Node, factor: float) -> bool:
    """Multiply the weights of every consumer of `node` by `factor`, so that `node` itself can drop that factor.

    Returns:
        False, with nothing changed, if a consumer cannot take the factor.
    """
    weights = _weights(graph, node)
    if weights is None:
        return False
    with torch.no_grad():
        for weight in weights:
            weight.mul_(factor)
    return True


def _weights(graph: GraphModule, node: Node) -> list[torch.Tensor] | None:
    weights: list[torch.Tensor] = []
    for user in node.users:
        if user.target in WEIGHTED and user.args[0] is node:
            holder: Any = user.args[1]
            if holder.op != "get_attr" or len(holder.users) != 1:
                return None
            weights.append(constant(graph, holder))
        elif user.target in PASSING and not _squares(user, node) and not _pads_with_value(user):
            behind = _weights(graph, user)
            if behind is None:
                return None
            weights.extend(behind)
        else:
            return None
    return weights if node.users else None


def _squares(user: Node, node: Node) -> bool:
    return len(user.all_input_nodes) == 1 and user.args.count(node) > 1


def _pads_with_value(user: Node) -> bool:
    value = user.args[3] if len(user.args) > 3 else user.kwargs.get("value")
    return user.target is aten.pad.default and bool(value)
