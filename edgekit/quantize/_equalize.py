"""Cross-layer equalization: channels that share an int8 grid get similar ranges; the float function is unchanged.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, section 4.1: a channel may
be divided by ``s`` where a layer writes it and multiplied by it where layers read it, if everything in between is
scale-equivariant. In the paper, all channels of a weight share one grid. Here each has its own, so the gain is in the
activations, and channel ranges measured on calibration images are used instead of the writing layer's weights.
Depthwise readers lose no precision by it; for others the scale is split evenly between activations and weights, as in
Xiao et al., "SmoothQuant", 2023.

Residual adds tie channels together, so whole groups of layers are scaled together. relu is scale-equivariant; relu6 and
smooth activations are not, so channels that pass through those are left alone, or the float function would change.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgekit.graph.ops import ADDS, WEIGHTED, aten, constant, has_own_weight
from edgekit.quantize._replay import Replay

SMALLEST = 1 / 32
"""Least scale: no channel is enlarged by more than its inverse."""
RELU = {aten.relu.default, aten.relu_.default}
EVEN = {
    *RELU,
    aten.add.Tensor,
    aten.add_.Tensor,
    aten.mean.dim,
    aten.adaptive_avg_pool2d.default,
    aten.avg_pool2d.default,
    aten.max_pool2d.default,
    aten.dropout.default,
    aten.dropout_.default,
}
"""Operators with f(s x) = s f(x) for s > 0, channel by channel."""


@dataclass
class Group:
    """Tensors whose channels can only be scaled together."""

    writers: list[Node] = field(default_factory=list)
    readers: list[Node] = field(default_factory=list)
    tensors: list[Node] = field(default_factory=list)
    free: bool = True
    """Nothing in it forbids scaling."""
    axis: int = 1
    """Of the channels: linear layers have them last, convolutions do not."""


def equalize(graph: GraphModule, images: Iterable[Tensor]) -> tuple[int, int]:
    """Scale the channels of a float graph without batch norms, in place.

    Args:
        graph: as exported, with batch norms folded; its weights are changed in place.
        images: float32 (3, H, W), on which channels are measured.

    Returns:
        How many groups of layers were scaled, and how many there are; a group is all layers that share channels.
    """
    shared = [group for group in _groups(graph) if group.tensors and group.readers]
    groups = [group for group in shared if group.free and group.writers]
    largest = _largest(graph, groups, images)
    scaled = 0
    for group in groups:
        scale = _scale(graph, group, largest)
        if bool((scale == 1).all()):
            continue
        with torch.no_grad():
            for node in group.writers:
                arguments: Any = (*node.args, None)
                weight = constant(graph, arguments[1])
                weight.div_(scale.view(-1, *[1] * (weight.dim() - 1)))
                if arguments[2] is not None:
                    constant(graph, arguments[2]).div_(scale)
            for node in group.readers:
                weight = constant(graph, node.args[1])  # type: ignore[arg-type]
                if _depthwise(graph, node):
                    weight.mul_(scale.view(-1, 1, 1, 1))
                else:
                    weight.mul_(scale.view(1, -1, *[1] * (weight.dim() - 2)))
        scaled += 1
    return scaled, len(shared)


def _scale(graph: GraphModule, group: Group, largest: dict[Node, Tensor]) -> Tensor:
    """What to divide each channel by, at most 1."""
    shares = torch.stack([largest[node] / largest[node].max().clamp(min=1e-30) for node in group.tensors])
    share = shares.clamp(min=1e-6).log().mean(0).exp()
    free = all(_depthwise(graph, node) for node in group.readers)
    scale = share if free else share.sqrt()
    return (scale / scale.max()).clamp(min=SMALLEST, max=1.0)


def _largest(graph: GraphModule, groups: list[Group], images: Iterable[Tensor]) -> dict[Node, Tensor]:
    """Largest magnitude per channel of every tensor that belongs to a group."""
    channels = {node: group.axis for group in groups for node in group.tensors}
    largest: dict[Node, Tensor] = {}
    replay = Replay(graph)
    for image in images:
        for node, value in replay.values(image.unsqueeze(0)).items():
            if node in channels:
                top = value.abs().movedim(channels[node], 0).flatten(1).amax(1)
                largest[node] = torch.maximum(largest[node], top) if node in largest else top
    return largest


def _depthwise(graph: GraphModule, node: Node) -> bool:
    weight = constant(graph, node.args[1])  # type: ignore[arg-type]
    return _split(node) == len(weight) and weight.dim() == 4 and weight.shape[1] == 1


def _split(node: Node) -> int:
    return int(node.args[6]) if node.target is aten.conv2d.default and len(node.args) > 6 else 1  # type: ignore[arg-type]


def _groups(graph: GraphModule) -> list[Group]:
    parent: dict[Node, Node] = {}

    def root(node: Node) -> Node:
        parent.setdefault(node, node)
        while parent[node] is not node:
            node = parent[node]
        return node

    barred: set[Node] = set()
    for node in graph.graph.nodes:
        sources = [source for source in node.all_input_nodes if source.op != "get_attr"]
        if node.op == "call_module":
            continue
        if node.op != "call_function":
            barred.update(sources)
        elif node.target in WEIGHTED:
            single = all(holder.op != "get_attr" or len(holder.users) == 1 for holder in node.all_input_nodes)
            known = single and has_own_weight(node) and node.target is not aten.conv2d.padding
            if not known or not (_split(node) == 1 or _depthwise(graph, node)):
                barred.update([node, *sources])
        elif _even(node):
            for source in sources:
                parent[root(source)] = root(node)
        else:
            barred.update([node, *sources])
    groups: defaultdict[Node, Group] = defaultdict(Group)
    for node in graph.graph.nodes:
        if node.op == "call_function":
            group = groups[root(node)]
            if not any(user.target in RELU for user in node.users):  # otherwise the tensor has no grid of its own
                group.tensors.append(node)
            if node.target in WEIGHTED:
                group.writers.append(node)
                groups[root(node.args[0])].readers.append(node)
    for node in barred:
        groups[root(node)].free = False
    for group in groups.values():
        axes = {_axis(node) for node in (*group.writers, *group.readers)} - {None}
        group.free = group.free and len(axes) < 2
        group.axis = -1 if axes == {-1} else 1
    return list(groups.values())


def _axis(node: Node) -> int | None:
    """Where a weighted operator has its channels; None if first and last are the same (N, C)."""
    if node.target is not aten.linear.default:
        return 1
    return -1 if len(node.meta["val"].shape) > 2 else None


def _even(node: Node) -> bool:
    """Whether scaling input channels scales the output channels alike."""
    if node.target is aten.pad.default:
        width: Any = node.args[1]
        value = node.args[3] if len(node.args) > 3 else node.kwargs.get("value")
        return len(width) <= 4 and node.args[2:3] in ((), ("constant",)) and not value
    if node.target is aten.flatten.using_ints:
        before, after = node.args[0].meta["val"].shape, node.meta["val"].shape  # type: ignore[union-attr]
        return len(before) == 4 and tuple(before[2:]) == (1, 1) and len(after) == 2
    if node.target is aten.mean.dim:
        axes: Any = node.args[1]
        return {axis % 4 for axis in axes} == {2, 3} and len(node.args[0].meta["val"].shape) == 4  # type: ignore[union-attr]
    if node.target in ADDS:
        shapes = [source.meta["val"].shape for source in node.all_input_nodes if source.op != "get_attr"]
        return len(shapes) == 2 and shapes[0] == shapes[1] and not node.kwargs
    return node.target in EVEN and len(node.meta["val"].shape) in (2, 4)
