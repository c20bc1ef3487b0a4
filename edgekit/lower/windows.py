"""The windows of a pool along one axis, in runs that one operator without padding can compute.

Windows at an edge see fewer pixels where a pool pads, rounds its output up (``ceil_mode``) or adapts to a size that
does not divide the input's. Engines disagree about those; pools of parts of the image, put together, leave no doubt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch.fx import GraphModule, Node

from edgekit.graph.ops import aten

MOST = 49
"""Parts that an image may fall into: the 7 x 7 of VGG."""


@dataclass(frozen=True)
class Window:
    """Pixels ``start <= x < stop`` of one axis."""

    start: int
    stop: int
    counted: int
    """By how many an average divides, padding included where it counts."""

    @property
    def kind(self) -> tuple[int, int]:
        """Windows of one kind are computed alike."""
        return self.stop - self.start, self.counted


@dataclass(frozen=True)
class Run:
    """Neighbouring windows of one width, at one distance."""

    first: Window
    count: int
    stride: int

    @property
    def stop(self) -> int:
        """End of the last window."""
        return self.first.stop + (self.count - 1) * self.stride


def sliding(size: int, outputs: int, kernel: int, stride: int, padding: int, counts_padding: bool) -> list[Window]:
    """Windows of ``avg_pool2d`` and ``max_pool2d``, of which there are `outputs`."""
    found = []
    for place in range(outputs):
        start = place * stride - padding
        stop = min(start + kernel, size + padding)
        low, high = max(start, 0), min(stop, size)
        found.append(Window(low, high, stop - start if counts_padding else high - low))
    return found


def adaptive(size: int, outputs: int) -> list[Window]:
    """Windows of ``adaptive_avg_pool2d`` and ``adaptive_max_pool2d``."""
    edges = [(place * size // outputs, -(-(place + 1) * size // outputs)) for place in range(outputs)]
    return [Window(start, stop, stop - start) for start, stop in edges]


def runs(windows: Sequence[Window]) -> list[Run]:
    """The fewest runs, from the first window on."""
    found: list[Run] = []
    for window in windows:
        if found:
            last = found[-1]
            step = window.start - (last.first.start + (last.count - 1) * last.stride)
            if window.kind == last.first.kind and step > 0 and (last.count == 1 or step == last.stride):
                found[-1] = Run(last.first, last.count + 1, step)
                continue
        found.append(Run(window, 1, 1))
    return found


def cut(graph: GraphModule, source: Node, axis: int, run: Run) -> Node:
    """The pixels that a run sees: a slice, inserted at the current place, or the source itself if that is all."""
    shape = list(source.meta["val"].shape)
    if (run.first.start, run.stop) == (0, shape[axis]):
        return source
    shape[axis] = run.stop - run.first.start
    return call(graph, source, shape, aten.slice.Tensor, source, axis, run.first.start, run.stop)


def join(graph: GraphModule, parts: list[Node], axis: int) -> Node:
    """The parts side by side, inserted at the current place."""
    if len(parts) == 1:
        return parts[0]
    shape = list(parts[0].meta["val"].shape)
    shape[axis] = sum(part.meta["val"].shape[axis] for part in parts)
    return call(graph, parts[0], shape, aten.cat.default, parts, axis)


def call(graph: GraphModule, like: Node, shape: Sequence[int], target: Any, *arguments: Any) -> Node:
    """A node at the current place, of the type and the layer of another."""
    node = graph.graph.call_function(target, arguments)
    node.meta.update(like.meta)
    node.meta["val"] = like.meta["val"].new_empty(shape)
    return node


def pool(
    graph: GraphModule,
    node: Node,
    source: Node,
    rows: Sequence[Run],
    columns: Sequence[Run],
    one: Callable[[Node, Run, Run], Node],
) -> None:
    """Put a pool of parts in the place of a pool of the whole image.

    Args:
        graph: exported and float.
        node: the result of the pool.
        source: what it pools, (N, C, H, W).
        rows: runs of its windows along H.
        columns: runs along W.
        one: inserts the pool of one part.
    """
    with graph.graph.inserting_before(node):
        strips = []
        for row in rows:
            strip = cut(graph, source, 2, row)
            parts = [one(cut(graph, strip, 3, column), row, column) for column in columns]
            strips.append(join(graph, parts, 3))
        whole = join(graph, strips, 2)
    node.replace_all_uses_with(whole)
    graph.graph.erase_node(node)
