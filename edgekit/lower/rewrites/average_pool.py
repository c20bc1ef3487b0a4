"""An average pool over windows becomes depthwise convolutions whose weights are all equal; one over all is a mean.

Helps both engines compute the same result: TFLite's average pool keeps the scale of its input and rounds halves away
from zero, ONNX Runtime rescales in float and miscounts rounded-up windows. The integer convolution is exact and fast in
both. Where windows count different numbers of pixels, there is one convolution for each kind of window.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgekit.graph.ops import aten
from edgekit.lower import windows
from edgekit.lower.windows import Run

NAME = "average_pool"
SCOPE = "graph"
NEEDED = "the engines round differently"
"""Kept for accuracy, not for speed, so it is not timed."""
TARGETS = {aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default}


def apply(graph: GraphModule) -> int:
    """Rewrite every pool over windows, in place, in an exported float graph; returns how many."""
    count = 0
    for node in [node for node in graph.graph.nodes if node.target in TARGETS]:
        count += convert(graph, node, f"average_{count}")
    graph.recompile()
    return count


def convert(graph: GraphModule, node: Node, name: str) -> bool:
    """Rewrite one pool, with constants of that name; False if it is a global mean, or has too many kinds of windows."""
    if _is_global(node):  # a mean to both engines, with scales to suit (`edgekit.quantize.exact_scales.MEANS`)
        node.target, node.args, node.kwargs = aten.adaptive_avg_pool2d.default, (node.args[0], [1, 1]), {}
        return True
    window, runs = _window(node), _runs(node)
    if window is not None:
        _one(graph, node, name, *window)
    elif runs is not None:
        _several(graph, node, name, *runs)
    return window is not None or runs is not None


def matches(graph: GraphModule) -> int:
    """How many pools of a float graph have windows of a few kinds, or one that is the whole image."""
    pools = [node for node in graph.graph.nodes if node.target in TARGETS]
    return sum(_is_global(node) or (_window(node) or _runs(node)) is not None for node in pools)


def matters(graph: GraphModule) -> bool:
    """Always: other operators run."""
    return True


def _one(
    graph: GraphModule, node: Node, name: str, kernel: list[int], stride: list[int], padding: list[int], divisor: int
) -> None:
    """All windows count the same number of pixels."""
    source: Any = node.args[0]
    channels = int(source.meta["val"].shape[1])
    weight = torch.full((channels, 1, *kernel), 1 / divisor)
    with graph.graph.inserting_before(node):
        holder, bias = (
            _constant(graph, f"{name}_{word}", value)
            for word, value in (("weight", weight), ("bias", torch.zeros(channels)))
        )
        pooled = graph.graph.call_function(
            aten.conv2d.default, (source, holder, bias, stride, padding, [1, 1], channels)
        )
    pooled.meta.update(node.meta)
    node.replace_all_uses_with(pooled)
    graph.graph.erase_node(node)


def _several(graph: GraphModule, node: Node, name: str, rows: list[Run], columns: list[Run]) -> None:
    override = divisor(node) if node.target is aten.avg_pool2d.default else None
    value = node.meta["val"]
    places = iter(range(len(rows) * len(columns)))

    def one(part: Node, row: Run, column: Run) -> Node:
        kernel = [each.first.stop - each.first.start for each in (row, column)]
        weight = torch.full((value.shape[1], 1, *kernel), 1 / (override or row.first.counted * column.first.counted))
        own = f"{name}_{next(places)}"
        holder = _constant(graph, f"{own}_weight", weight)
        bias = _constant(graph, f"{own}_bias", torch.zeros(len(weight)))
        geometry = ([row.stride, column.stride], [0, 0], [1, 1], len(weight))
        shape = (*value.shape[:2], row.count, column.count)
        return windows.call(graph, node, shape, aten.conv2d.default, part, holder, bias, *geometry)

    windows.pool(graph, node, node.args[0], rows, columns, one)  # type: ignore[arg-type]


def _is_global(node: Node) -> bool:
    """Whether it is an ``avg_pool2d`` with one window, the whole image."""
    if node.target is not aten.avg_pool2d.default:
        return False
    source: Any = node.args[0]
    kernel, _, padding, _, _, override = _given(node)
    return tuple(kernel) == tuple(source.meta["val"].shape[2:]) and not any(padding) and not override


def _window(node: Node) -> tuple[list[int], list[int], list[int], int] | None:
    """Kernel, stride, padding and divisor; None for a global mean, and if windows count different numbers of pixels."""
    source: Any = node.args[0]
    size: tuple[int, int] = tuple(source.meta["val"].shape[2:])
    if node.target is aten.adaptive_avg_pool2d.default:
        wanted: Any = node.args[1]
        kernel = [extent // parts for extent, parts in zip(size, wanted, strict=True)]
        uneven = any(extent % parts for extent, parts in zip(size, wanted, strict=True))
        return None if uneven or tuple(wanted) == (1, 1) else (kernel, kernel, [0, 0], kernel[0] * kernel[1])
    kernel, stride, padding, _, include, override = _given(node)
    whole = all(
        (extent + 2 * border - width) // step + 1 == outputs
        for extent, border, width, step, outputs in zip(
            size, padding, kernel, stride, node.meta["val"].shape[2:], strict=True
        )
    )
    if not whole or (any(padding) and not include and not override) or (tuple(kernel) == size and not override):
        return None
    return kernel, stride, padding, override or kernel[0] * kernel[1]


def _runs(node: Node) -> tuple[list[Run], list[Run]] | None:
    """Runs of windows along both axes; None for a global mean, and if they are too many."""
    source: Any = node.args[0]
    size, outputs = source.meta["val"].shape[2:], node.meta["val"].shape[2:]
    if node.target is aten.adaptive_avg_pool2d.default:
        if tuple(outputs) == (1, 1):
            return None
        rows, columns = (windows.runs(windows.adaptive(*pair)) for pair in zip(size, outputs, strict=True))
    else:
        kernel, stride, padding, _, include, override = _given(node)
        if tuple(kernel) == tuple(size) and not any(padding) and not override:
            return None
        rows, columns = (
            windows.runs(windows.sliding(*each, include))
            for each in zip(size, outputs, kernel, stride, padding, strict=True)
        )
    return (rows, columns) if len(rows) * len(columns) <= windows.MOST else None


def divisor(node: Node) -> int | None:
    """The ``divisor_override`` of ``avg_pool2d``."""
    override: int | None = _given(node)[5]
    return override


def _given(node: Node) -> Any:
    """Kernel, stride, padding, ceil_mode, count_include_pad and divisor_override of ``avg_pool2d``."""
    given: Any = [*node.args[1:], *[None] * 6][:6]
    names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
    defaults: list[Any] = [None, None, [0, 0], False, True, None]
    kernel, stride, padding, ceil, include, override = (
        node.kwargs.get(name, default) if value is None else value
        for name, value, default in zip(names, given, defaults, strict=True)
    )
    kernel = _pair(kernel)
    return kernel, _pair(stride or kernel), _pair(padding), ceil, include, override


def _pair(value: Any) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * 2 if len(values) == 1 else values


def _constant(graph: GraphModule, name: str, value: torch.Tensor) -> Node:
    graph.register_buffer(name, value)
    node = graph.graph.get_attr(name)
    node.meta["val"] = value
    return node
