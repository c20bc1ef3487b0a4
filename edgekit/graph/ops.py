"""The operators of exported torch graphs, grouped by what they do, for `lower` and `quantize`."""

from __future__ import annotations

from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # registers the Q/DQ operators
from torch.fx import GraphModule, Node

aten = torch.ops.aten

WEIGHTED = {aten.conv2d.default, aten.conv2d.padding, aten.linear.default}
BATCH_NORM = {aten.batch_norm.default}
CLAMPS = {
    aten.relu.default,
    aten.relu_.default,
    aten.relu6.default,
    aten.relu6_.default,
    aten.hardtanh.default,
    aten.hardtanh_.default,
    aten.clamp.default,
    aten.clamp_.default,
}
"""Activations that a kernel applies for free to its own output."""
ADDS = {aten.add.Tensor, aten.add_.Tensor}
MULS = {aten.mul.Tensor, aten.mul_.Tensor}
SIGMOIDS = {aten.sigmoid.default, aten.sigmoid_.default}
COMPUTING = {
    *ADDS,
    *MULS,
    aten.mean.dim,
    aten.adaptive_avg_pool2d.default,
    aten.avg_pool2d.default,
    *SIGMOIDS,
}
"""Ops with an integer kernel and a range of their own."""
MOVING = {
    aten.flatten.using_ints,
    aten.reshape.default,
    aten.view.default,
    aten.permute.default,
    aten.transpose.int,
    aten.movedim.int,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
    aten.unflatten.int,
    aten.view_as.default,
    aten.reshape_as.default,
    aten.expand.default,
    aten.expand_as.default,
    aten.repeat.default,
    aten.slice.Tensor,
    aten.narrow.default,
    aten.select.int,
    aten.roll.default,
    aten.flip.default,
    aten.stack.default,
    aten.channel_shuffle.default,
    aten.pixel_shuffle.default,
    aten.pixel_unshuffle.default,
    aten.upsample_nearest2d.default,
    aten.upsample_nearest2d.vec,
    aten.dropout.default,
    aten.dropout_.default,
    aten.max_pool2d.default,
    aten.pad.default,
    aten.constant_pad_nd.default,
    aten.cat.default,
}
"""Ops that move values without changing them: output and inputs share one scale."""

QDQ = torch.ops.quantized_decomposed
QUANTIZE = QDQ.quantize_per_tensor.default
DEQUANTIZE = QDQ.dequantize_per_tensor.default
WEIGHT_QUANTIZE = QDQ.quantize_per_channel.default
WEIGHT_DEQUANTIZE = QDQ.dequantize_per_channel.default


def bounds(clamp: Node) -> tuple[float, float]:
    """The limits of a node of `CLAMPS`."""
    if clamp.target in (aten.relu.default, aten.relu_.default):
        return 0.0, torch.inf
    if clamp.target in (aten.relu6.default, aten.relu6_.default):
        return 0.0, 6.0
    hard = clamp.target in (aten.hardtanh.default, aten.hardtanh_.default)
    default: list[Any] = [-1.0, 1.0] if hard else [None, None]
    given: list[Any] = list(clamp.args[1:])
    low, high = given + default[len(given) :]
    low, high = clamp.kwargs.get("min", low), clamp.kwargs.get("max", high)
    return -torch.inf if low is None else float(low), torch.inf if high is None else float(high)


def scopes(node: Node) -> tuple[str, ...]:
    """Qualified names of the modules a node was traced in, outermost first (the root is left out)."""
    stack = node.meta.get("nn_module_stack") or {}
    names = (str(entry[0]).removeprefix("L['self'].") for entry in stack.values())
    return tuple(name for name in names if name and name != "L['self']")


def constant(graph: GraphModule, node: Node) -> torch.Tensor:
    """The parameter or buffer that a get_attr node names."""
    owner: Any = graph
    for part in str(node.target).split("."):
        owner = getattr(owner, part)
    assert isinstance(owner, torch.Tensor)
    return owner


def has_own_weight(node: Node) -> bool:
    """Whether weight and bias of a weighted operator of a float graph are constants, not computed from the image."""
    return all(isinstance(held, Node) and held.op == "get_attr" for held in node.args[1:3] if held is not None)
