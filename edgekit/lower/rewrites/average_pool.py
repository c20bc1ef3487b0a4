"""An average pool over windows becomes a depthwise convolution whose weights are all equal.

Helps both engines compute the same result: TFLite's average pool keeps the scale of its input and rounds halves away
from zero, ONNX Runtime rescales in float. The integer convolution is exact and fast in both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgekit.graph.ops import aten

NAME = "average_pool"
SCOPE = "graph"
NEEDED = "the engines round differently"
"""Kept for accuracy, not for speed, so it is not timed."""
TARGETS = {aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default}


def apply(graph: GraphModule) -> int:
    """Rewrite every pool with windows of one size, in place, in an exported float graph; returns how many."""
    count = 0
    for node in [node for node in graph.graph.nodes if node.target in TARGETS]:
        source: Any = node.args[0]
        window = _window(node)
        if window is None:
            continue
        kernel, stride, padding = window
        channels = int(source.meta["val"].shape[1])
        weight = torch.full((channels, 1, *kernel), 1 / (kernel[0] * kernel[1]))
        with graph.graph.inserting_before(node):
            holder, bias = (
                _constant(graph, f"average_{count}_{word}", value)
                for word, value in (("weight", weight), ("bias", torch.zeros(channels)))
            )
            pooled = graph.graph.call_function(
                aten.conv2d.default, (source, holder, bias, stride, padding, [1, 1], channels)
            )
        pooled.meta.update(node.meta)
        node.replace_all_uses_with(pooled)
        graph.graph.erase_node(node)
        count += 1
    graph.recompile()
    return count


def matches(graph: GraphModule) -> int:
    """How many pools of a float graph have windows of one size."""
    return sum(node.target in TARGETS and _window(node) is not None for node in graph.graph.nodes)


def matters(graph: GraphModule) -> bool:
    """Always: other operators run."""
    return True


def _window(node: Node) -> tuple[list[int], list[int], list[int]] | None:
    """Kernel, stride and padding; None for a global mean, and if windows count different numbers of pixels."""
    source: Any = node.args[0]
    size: tuple[int, int] = tuple(source.meta["val"].shape[2:])
    if node.target is aten.adaptive_avg_pool2d.default:
        wanted: Any = node.args[1]
        kernel = [extent // parts for extent, parts in zip(size, wanted, strict=True)]
        uneven = any(extent % parts for extent, parts in zip(size, wanted, strict=True))
        return None if uneven or tuple(wanted) == (1, 1) else (kernel, kernel, [0, 0])
    given: Any = [*node.args[1:], *[None] * 6][:6]
    names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
    defaults: list[Any] = [None, None, [0, 0], False, True, None]
    kernel, stride, padding, ceil, include, divisor = (
        node.kwargs.get(name, default) if value is None else value
        for name, value, default in zip(names, given, defaults, strict=True)
    )
    kernel, padding = _pair(kernel), _pair(padding)
    stride = _pair(stride or kernel)
    if ceil or divisor or (any(padding) and not include) or tuple(kernel) == size:
        return None
    return kernel, stride, padding


def _pair(value: Any) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * 2 if len(values) == 1 else values


def _constant(graph: GraphModule, name: str, value: torch.Tensor) -> Node:
    graph.register_buffer(name, value)
    node = graph.graph.get_attr(name)
    node.meta["val"] = value
    return node
