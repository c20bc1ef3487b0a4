"""A batch norm that no convolution precedes goes into what is around it, or becomes a depthwise 1x1 convolution.

Helps both engines, which have no integer kernel for it. Torch's quantizer folds a batch norm into the convolution
before it and leaves all others. These are, the first that fits:

- after a concatenation of layers that nothing else reads (MixNet): each layer gets its part, to be folded;
- after a linear layer, or before layers without padding: their weights take it, exactly;
- of images (DenseNet, pre-activation ResNets): a depthwise 1x1 convolution, which applies a clamp for free;
- of anything else: a multiplication and an addition.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgekit.graph.ops import BATCH_NORM, WEIGHTED, aten, constant

NAME = "batch_norm"
SCOPE = "graph"
NEEDED = "batch norms without a convolution would compute in float"
CONVOLUTIONS = WEIGHTED - {aten.linear.default}
TAKING = CONVOLUTIONS | {
    aten.conv1d.default,
    aten.conv1d.padding,
    aten.conv3d.default,
    aten.conv3d.padding,
    aten.conv_transpose1d.default,
    aten.conv_transpose2d.input,
    aten.conv_transpose3d.input,
}
"""Layers that torchao folds a batch norm into, though others may read them without it."""


def apply(graph: GraphModule) -> int:
    """Rewrite every batch norm of an exported float graph that no convolution can take, in place; returns how many."""
    found = [node for node in graph.graph.nodes if _is_alone(node)]
    for node in found:
        scale, shift = _affine(graph, node)
        source: Any = node.args[0]
        parts = _parts(source)
        if parts:
            _distribute(graph, node, parts)
        elif source.target is aten.linear.default and len(source.users) == 1 and _fold(graph, source, scale, shift):
            _drop(graph, node)
        elif node.users and all(_takes(user, node, shift) for user in node.users):
            for user in dict.fromkeys(node.users):
                _fold_forward(graph, user, scale, shift)
            _drop(graph, node)
        else:
            _convert(graph, node, scale, shift)
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
    """Whether it has fixed statistics and its input does not come from a convolution that nothing else reads."""
    if node.target not in BATCH_NORM or node.args[3] is None or node.args[5]:
        return False
    source: Any = node.args[0]
    return source.target not in TAKING or len(source.users) > 1


def _affine(graph: GraphModule, node: Node) -> tuple[Tensor, Tensor]:
    """Scale and shift of each channel, float32 (channels,)."""
    arguments: Any = node.args
    weight, bias, mean, variance = (
        None if holder is None else constant(graph, holder).detach() for holder in arguments[1:5]
    )
    assert mean is not None
    assert variance is not None
    scale = (variance.double() + arguments[7]).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    return scale.float(), shift.float()


def _parts(source: Node) -> list[Node]:
    """The convolutions whose channels are concatenated here and read nowhere else; empty if it is not so."""
    if source.target is not aten.cat.default or len(source.users) > 1 or source.args[1:] not in ((1,), (-3,)):
        return []
    parts: Any = source.args[0]
    own = all(part.target in CONVOLUTIONS and len(part.users) == 1 for part in parts)
    return list(parts) if own and len(set(parts)) == len(parts) else []


def _distribute(graph: GraphModule, node: Node, parts: list[Node]) -> None:
    """``bn(cat(a, b))`` becomes ``cat(bn(a), bn(b))``."""
    cat: Any = node.args[0]
    arguments: Any = node.args
    start = 0
    for number, part in enumerate(parts):
        stop = start + int(part.meta["val"].shape[1])
        with graph.graph.inserting_before(cat):
            holders = [
                None
                if holder is None
                else _hold(graph, f"{node.name}_{number}_{place}", constant(graph, holder)[start:stop])
                for place, holder in enumerate(arguments[1:5])
            ]
            own = graph.graph.call_function(node.target, (part, *holders, *arguments[5:]))
        own.meta.update(part.meta)
        cat.replace_input_with(part, own)
        start = stop
    _drop(graph, node)


def _takes(user: Node, node: Node, shift: Tensor) -> bool:
    """Whether a layer that reads the batch norm can take it, and nothing else reads its weight."""
    if user.target not in WEIGHTED or user.args[0] is not node:
        return False
    arguments: Any = [*user.args, *[None] * 7]
    holder = arguments[1]
    if holder.op != "get_attr" or len(holder.users) > 1 or node.meta["val"].dim() not in (2, 4):
        return False
    if user.target is aten.linear.default:
        return bool(node.meta["val"].dim() == 2)
    padding = arguments[4] or 0
    padded = any(padding) if isinstance(padding, list | tuple) else padding not in (0, "valid")
    return (arguments[6] or 1) == 1 and (not padded or not bool(shift.any()))


def _fold(graph: GraphModule, layer: Node, scale: Tensor, shift: Tensor) -> bool:
    """Let a linear layer compute what a batch norm makes of its output; False if its weight is shared or computed."""
    weight, bias = _holders(layer)
    if weight.op != "get_attr" or len(weight.users) > 1:
        return False
    old = torch.zeros_like(shift) if bias is None else constant(graph, bias)
    _set(graph, layer, constant(graph, weight) * scale[:, None], old * scale + shift)
    return True


def _fold_forward(graph: GraphModule, layer: Node, scale: Tensor, shift: Tensor) -> None:
    """Let a layer take the input of a batch norm instead of its output."""
    weight, bias = _holders(layer)
    old = constant(graph, weight).detach()
    along = scale.view(1, -1, *[1] * (old.dim() - 2))
    more = (old * shift.view_as(along)).flatten(1).sum(1)
    _set(graph, layer, old * along, more if bias is None else more + constant(graph, bias))


def _holders(layer: Node) -> tuple[Any, Any]:
    arguments: Any = [*layer.args, None]
    return arguments[1], arguments[2]


def _set(graph: GraphModule, layer: Node, weight: Tensor, bias: Tensor) -> None:
    with graph.graph.inserting_before(layer):
        holders = [_hold(graph, f"{layer.name}_{word}", value) for word, value in (("weight", weight), ("bias", bias))]
    layer.args = (layer.args[0], *holders, *layer.args[3:])


def _convert(graph: GraphModule, node: Node, scale: Tensor, shift: Tensor) -> None:
    value = node.meta["val"]
    channels = len(scale)
    shape = (1, -1, *[1] * (value.dim() - 2))
    with graph.graph.inserting_before(node):
        if value.dim() == 4:
            weight = _hold(graph, f"{node.name}_weight", scale.view(-1, 1, 1, 1))
            bias = _hold(graph, f"{node.name}_bias", shift)
            geometry = ([1, 1], [0, 0], [1, 1], channels)
            new = graph.graph.call_function(aten.conv2d.default, (node.args[0], weight, bias, *geometry))
        else:
            factor = _hold(graph, f"{node.name}_scale", scale.view(shape))
            scaled = graph.graph.call_function(aten.mul.Tensor, (node.args[0], factor))
            scaled.meta.update(node.meta)
            term = _hold(graph, f"{node.name}_shift", shift.view(shape))
            new = graph.graph.call_function(aten.add.Tensor, (scaled, term))
    new.meta.update(node.meta)
    node.replace_all_uses_with(new)
    graph.graph.erase_node(node)


def _hold(graph: GraphModule, name: str, value: Tensor) -> Node:
    """A constant of the graph, to be inserted at the current place."""
    graph.register_buffer(name, value.detach().clone())
    node = graph.graph.get_attr(name)
    node.meta["val"] = value
    return node


def _drop(graph: GraphModule, node: Node) -> None:
    node.replace_all_uses_with(node.args[0])
    graph.graph.erase_node(node)
