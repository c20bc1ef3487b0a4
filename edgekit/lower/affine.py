"""Moving ``scale * x + shift``, with a number for each channel, into the weights around it; all exact."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgekit.graph.ops import BATCH_NORM, WEIGHTED, aten, constant


def fold(graph: GraphModule, node: Node, source: Node, scale: Tensor, shift: Tensor) -> None:
    """Replace `node`, which computes ``scale * source + shift`` for channels on axis 1, in place.

    The first that fits: the layer or batch norm before it takes it, if nothing else reads that; the layers after it
    take it, if no padding is in the way; images get a depthwise 1x1 convolution; all else is multiplied and added to.

    Args:
        graph: exported and float.
        node: its value knows its shape.
        source: what it is computed from.
        scale: float32 (channels,).
        shift: float32 (channels,).
    """
    if backward(graph, source, scale, shift):
        node.replace_all_uses_with(source)
    elif node.users and all(_takes(user, node, shift) for user in node.users):
        for user in list(node.users):
            _forward(graph, user, scale, shift)
        node.replace_all_uses_with(source)
    else:
        _convert(graph, node, source, scale, shift)
    graph.graph.erase_node(node)


def of_norm(graph: GraphModule, node: Node) -> tuple[Tensor, Tensor]:
    """Scale and shift of each channel by a batch norm with running statistics, float32 (channels,)."""
    arguments: Any = node.args
    weight, bias, mean, variance = (
        None if holder is None else constant(graph, holder).detach().double() for holder in arguments[1:5]
    )
    assert mean is not None
    assert variance is not None
    scale = (variance + arguments[7]).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    return scale.float(), shift.float()


def backward(graph: GraphModule, source: Node, scale: Tensor, shift: Tensor) -> bool:
    """Let a layer or batch norm compute ``scale * y + shift`` instead of y; False if it cannot.

    Output channels of a linear layer are on the last axis.
    """
    if len(source.users) != 1 or source.target not in WEIGHTED | BATCH_NORM:
        return False
    arguments: Any = [*source.args, None]
    weight, bias = arguments[1:3]
    if weight is None or weight.op != "get_attr" or len(weight.users) > 1:
        return False
    old = constant(graph, weight)
    if len(old) != len(scale):
        return False
    term = torch.zeros_like(shift) if bias is None else constant(graph, bias)
    _set(graph, source, old * scale.view(-1, *[1] * (old.dim() - 1)), term * scale + shift)
    return True


def _takes(user: Node, node: Node, shift: Tensor) -> bool:
    """Whether a layer that reads `node` can take it, and nothing else reads the layer's weight."""
    if user.target not in WEIGHTED or user.args[0] is not node:
        return False
    arguments: Any = [*user.args, *[None] * 7]
    holder = arguments[1]
    if holder.op != "get_attr" or len(holder.users) > 1:
        return False
    if user.target is aten.linear.default:
        return bool(node.meta["val"].dim() == 2)
    padding = arguments[4] or 0
    padded = any(padding) if isinstance(padding, list | tuple) else padding not in (0, "valid")
    return (arguments[6] or 1) == 1 and (not padded or not bool(shift.any()))


def _forward(graph: GraphModule, layer: Node, scale: Tensor, shift: Tensor) -> None:
    arguments: Any = [*layer.args, None]
    weight, bias = arguments[1:3]
    old = constant(graph, weight).detach()
    along = scale.view(1, -1, *[1] * (old.dim() - 2))
    more = (old * shift.view_as(along)).flatten(1).sum(1)
    _set(graph, layer, old * along, more if bias is None else more + constant(graph, bias))


def _set(graph: GraphModule, layer: Node, weight: Tensor, bias: Tensor) -> None:
    with graph.graph.inserting_before(layer):
        holders = [hold(graph, f"{layer.name}_{word}", value) for word, value in (("scaled", weight), ("moved", bias))]
    layer.args = (layer.args[0], *holders, *layer.args[3:])


def _convert(graph: GraphModule, node: Node, source: Node, scale: Tensor, shift: Tensor) -> None:
    value, channels = node.meta["val"], len(scale)
    shape = (1, -1, *[1] * (value.dim() - 2))
    with graph.graph.inserting_before(node):
        if value.dim() == 4:
            weight = hold(graph, f"{node.name}_scale", scale.view(-1, 1, 1, 1))
            bias = hold(graph, f"{node.name}_shift", shift)
            geometry = ([1, 1], [0, 0], [1, 1], channels)
            new = graph.graph.call_function(aten.conv2d.default, (source, weight, bias, *geometry))
        else:
            factor = hold(graph, f"{node.name}_scale", scale.view(shape))
            scaled = graph.graph.call_function(aten.mul.Tensor, (source, factor))
            scaled.meta.update(node.meta)
            term = hold(graph, f"{node.name}_shift", shift.view(shape))
            new = graph.graph.call_function(aten.add.Tensor, (scaled, term))
    new.meta.update(node.meta)
    node.replace_all_uses_with(new)


def hold(graph: GraphModule, name: str, value: Tensor) -> Node:
    """A new constant of the graph, inserted at the current place."""
    free = name
    while hasattr(graph, free):
        free += "_"
    graph.register_buffer(free, value.detach().clone())
    node = graph.graph.get_attr(free)
    node.meta["val"] = value.detach()
    return node
