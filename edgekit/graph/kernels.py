"""The weighted kernels of a quantized graph: what an engine runs as one integer operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgekit.graph.ops import CLAMPS, DEQUANTIZE, QUANTIZE, WEIGHT_DEQUANTIZE, WEIGHTED, bounds, scopes


@dataclass(frozen=True)
class Kernel:
    """A weighted operator with Q/DQ pairs around it, and the numbers that describe it."""

    node: Node
    source: Node
    """The dequantize node that feeds it."""
    sink: Node
    """The quantize node after the kernel."""
    clamps: tuple[Node, ...]
    """The activation between them, if there is one."""
    input_scale: float
    input_zero: int
    weight: Node
    """int8 weight (folded) or the node that quantizes it."""
    weight_scales: Node
    bias: Node | None
    output_scale: float
    output_zero: int
    low: int
    high: int


def kernels(graph: GraphModule) -> list[Kernel]:
    """The weighted operators that an engine runs in integers."""
    matches = []
    for node in graph.graph.nodes:
        if node.op == "call_function" and node.target in WEIGHTED:
            kernel = _match(node)
            if kernel is not None:
                matches.append(kernel)
    return matches


def float_layers(graph: GraphModule) -> list[str]:
    """Names of the weighted operators of a quantized graph that stay in float."""
    integer = {kernel.node for kernel in kernels(graph)}
    weighted = [node for node in graph.graph.nodes if node.op == "call_function" and node.target in WEIGHTED]
    return [(scopes(node) or (node.name,))[-1] for node in weighted if node not in integer]


def _match(node: Node) -> Kernel | None:
    arguments: Any = (*node.args, None)
    source, weight, bias = arguments[:3]
    if source.target is not DEQUANTIZE or weight.target is not WEIGHT_DEQUANTIZE or len(node.users) != 1:
        return None
    last, low, high = node, -torch.inf, torch.inf
    user = next(iter(node.users))
    if user.target in CLAMPS:
        last, (low, high) = user, bounds(user)
    sink: Any = next(iter(last.users))
    if len(last.users) != 1 or sink.target is not QUANTIZE:
        return None
    scale, zero, qmin, qmax = float(sink.args[1]), *(int(number) for number in sink.args[2:5])
    return Kernel(
        node=node,
        source=source,
        sink=sink,
        clamps=() if last is node else (last,),
        input_scale=float(source.args[1]),
        input_zero=int(source.args[2]),
        weight=weight.args[0],
        weight_scales=weight.args[1],
        bias=bias,
        output_scale=scale,
        output_zero=zero,
        low=qmin if low == -torch.inf else max(qmin, round(low / scale) + zero),
        high=qmax if high == torch.inf else min(qmax, round(high / scale) + zero),
    )


def on_grid(weight: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """A float weight rounded to its int8 grid: per output channel, symmetric, -127..127; float64."""
    steps = scales.double().view(-1, *[1] * (weight.dim() - 1))
    return torch.round(weight.double() / steps).clamp(-127, 127) * steps
