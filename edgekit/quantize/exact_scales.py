"""Scales on which no rounding can tie, so that every engine computes the same integers.

An integer kernel requantizes by ``rint(n * r)``, n an integer and r a ratio of scales. Engines compute r * n in float32
or fixed point of various widths, and round halves to even, up, or away from zero; if n * r lies within their error of
k + 1/2, they differ by a step, and a deep net carries such a step to every logit. With r = m / D and D odd, n * r is a
multiple of 1 / D and never nearer to a half than 1 / (2 D), which is far above any engine's error. So scales are
enlarged (never shrunk, so that nothing more is clipped) until the ratios of convolutions, linear layers, adds,
multiplications and means have that form: by a fraction of a percent, more only for channels so weak that a whole
accumulator step is below 1 / `WIDE` of an output step. Average pools over windows are left unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.passes.shape_prop import ShapeProp

from edgekit.graph.kernels import kernels
from edgekit.graph.ops import ADDS, CLAMPS, DEQUANTIZE, MOVING, MULS, QUANTIZE, SIGMOIDS, aten, bounds, constant

MEANS = {aten.mean.dim, aten.adaptive_avg_pool2d.default}
WIDE = 4095
"""Largest D for operators whose engines multiply in float32 (error below 3e-5 steps)."""
NARROW = 1023
"""D of adds, which XNNPACK computes with 21-bit multipliers (error below 2e-4 steps)."""

STEEPEST = 224
"""Most steps of an output for a step of an input: LiteRT's add wraps round at 256, its multiplication is not delegated.
A finer grid would only resolve the noise of the input's own rounding."""
COARSEST = 20
"""Least steps in a constant to which a sum's grid is aligned: fewer would enlarge its scale by more than 5 %."""


def settle(graph: GraphModule, example: torch.Tensor, pixels: torch.Tensor) -> int:
    """Adjust all scales of a quantized graph in place.

    Args:
        graph: after conversion, weights still quantized in the graph.
        example: an input, to derive the shapes of inner tensors.
        pixels: every value that the input can take, any shape.

    Returns:
        The number of kernels that could not be settled because all their scales were settled by others.
    """
    ShapeProp(graph).propagate(example)
    tensors = _Tensors(graph)
    symmetric = not any(sink.args[2] for sink in tensors.sinks)  # zero points of 0 have to stay so
    for sink in tensors.sinks:
        if sink.args[0].op == "placeholder":
            tensors.fix(sink, clear_of_ties(tensors[sink], pixels))
    _level(graph, tensors)
    open_ends = 0
    done: set[Node] = set()
    for node in reversed(graph.graph.nodes):  # sums of sums first, while the grids of their inputs are still free
        sink = _sink(node) if node.target in ADDS else None
        sums = sink is not None and all(_is_sum(_source(argument)) for argument in node.args)
        if sums and _settle_add(tensors, node, sink):
            done.add(node)
    for node in graph.graph.nodes:
        sink = _sink(node)
        if node.op != "call_function" or sink is None or node in done:
            continue
        if node.target in SIGMOIDS:
            tensors.fix(sink)
        elif node.target in ADDS and not symmetric and _settle_shift(graph, tensors, node, sink):
            continue
        elif node.target in ADDS:
            open_ends += not _settle_add(tensors, node, sink)
        elif node.target in MULS:
            sources = [_source(argument) for argument in node.args]
            open_ends += not _settle_product(tensors, sources, 1.0, sink)
        elif node.target in MEANS:
            open_ends += not _settle_product(tensors, [_source(node.args[0])], 1 / _pixels(node), sink)
    tensors.write()
    for kernel in kernels(graph):
        scales = constant(graph, kernel.weight_scales)
        outer = kernel.input_scale / kernel.output_scale
        with torch.no_grad():
            scales.copy_(torch.tensor([above(float(scale) * outer, WIDE) / outer for scale in scales]))
    graph.recompile()
    return open_ends


def clear_of_ties(scale: float, values: torch.Tensor) -> float:
    """The scale, at most one percent above the given one, that keeps values / scale farthest from all halves."""
    candidates = scale * torch.linspace(1, 1.01, 1001, dtype=torch.float64)
    steps = values.flatten().double() / candidates.unsqueeze(1)
    distance = ((steps - steps.floor()) - 0.5).abs().amin(1)
    return float(candidates[distance.argmax()])


def above(ratio: float, widest: int) -> float:
    """The least m / D >= `ratio` with D odd and D <= `widest` that a quick search finds."""
    best = math.inf
    for m in range(max(math.ceil(ratio), 1), min(64, int(ratio * widest)) + 1):
        best = min(best, m / _odd(m / ratio))
    for odd in range(widest, max(widest - 64, 0), -2):
        best = min(best, math.ceil(ratio * odd * (1 - 1e-12)) / odd)
    return best


def _odd(limit: float) -> int:
    """Largest odd number up to `limit`, which is at least 1."""
    whole = int(limit * (1 + 1e-12))
    return max(whole if whole % 2 else whole - 1, 1)


class _Tensors:
    """The scales of activation tensors; tensors with only moves between them share one."""

    def __init__(self, graph: GraphModule) -> None:
        self.sinks: list[Any] = [n for n in graph.graph.nodes if n.op == "call_function" and n.target is QUANTIZE]
        self.parent: dict[Node, Node] = {sink: sink for sink in self.sinks}
        for sink in self.sinks:
            for source in _moved(sink.args[0]):
                self.parent[self._root(source)] = self._root(sink)
        self.scale: dict[Node, float] = {self._root(sink): float(sink.args[1]) for sink in self.sinks}
        self.fixed: set[Node] = set()
        self.zero: dict[Node, int] = {}
        """Changed zero points."""

    def _root(self, sink: Node) -> Node:
        while self.parent[sink] is not sink:
            sink = self.parent[sink]
        return sink

    def __getitem__(self, sink: Node) -> float:
        return self.scale[self._root(sink)]

    def is_fixed(self, sink: Node) -> bool:
        return self._root(sink) in self.fixed

    def fix(self, sink: Node, scale: float | None = None) -> None:
        root = self._root(sink)
        if scale is not None:
            self.scale[root] = scale
        self.fixed.add(root)

    def alone(self, sink: Node) -> bool:
        """Whether no other tensor shares its scale."""
        return sum(self._root(other) is self._root(sink) for other in self.sinks) == 1

    def follow(self, sink: Node, leader: Node, zero: int) -> None:
        """Share the scale of another tensor, with a separate zero point."""
        self.parent[sink] = self._root(leader)
        self.zero[sink] = zero

    def write(self) -> None:
        for sink in self.sinks:
            for node in (sink, *sink.users):
                node.update_arg(1, self[sink])
                node.update_arg(2, self.zero.get(sink, sink.args[2]))


def _moved(node: Any) -> Iterable[Node]:
    """Quantize nodes whose values reach `node` through moves and lone clamps only."""
    if not isinstance(node, Node) or node.target not in MOVING | CLAMPS:
        return
    for source in node.all_input_nodes:
        if source.target is DEQUANTIZE:
            yield source.all_input_nodes[0]
        else:
            yield from _moved(source)


def _sink(node: Node) -> Node | None:
    """The quantizer at the end of a kernel, with or without a clamp in between."""
    users = list(node.users)
    if len(users) == 1 and users[0].target in CLAMPS:
        users = list(users[0].users)
    return users[0] if len(users) == 1 and users[0].target is QUANTIZE else None


def _source(argument: Any) -> Node | None:
    quantized = isinstance(argument, Node) and argument.target is DEQUANTIZE
    source = argument.all_input_nodes[0] if quantized else None
    return source if source is not None and source.target is QUANTIZE else None


def _is_sum(sink: Any) -> bool:
    """Whether a quantizer ends an add of two tensors, with or without a clamp in between."""
    last = None if sink is None else sink.args[0]
    last = last.all_input_nodes[0] if last is not None and last.target in CLAMPS else last
    return last is not None and last.target in ADDS


def _pixels(node: Node) -> int:
    before, after = node.all_input_nodes[0].meta["tensor_meta"].shape, node.meta["tensor_meta"].shape
    return int(before.numel() // after.numel())


def _level(graph: GraphModule, tensors: _Tensors) -> None:
    """Enlarge the scale of sums and products until no input's step is more than `STEEPEST` of theirs."""
    for node in graph.graph.nodes:
        sink: Any = _sink(node) if node.target in ADDS | MULS else None
        sources = [_source(argument) for argument in node.args] if sink is not None else []
        known = [tensors[source] for source in sources if source is not None]
        if len(known) < 2 or tensors.is_fixed(sink):
            continue
        least = (max(known) if node.target in ADDS else math.prod(known)) / STEEPEST
        if tensors[sink] < least:
            _keep_clamp(graph, node, sink)
            tensors.scale[tensors._root(sink)] = least


def _keep_clamp(graph: GraphModule, node: Node, sink: Any) -> None:
    """Insert the relu6 that the range of a quantizer implies, before the range grows; relu stays implied."""
    scale, zero, low, high = float(sink.args[1]), *(int(number) for number in sink.args[2:5])
    if sink.args[0] is node and zero == low and abs((high - zero) * scale - 6) < scale:
        with graph.graph.inserting_before(sink):
            clamp = graph.graph.call_function(aten.hardtanh.default, (node, 0.0, 6.0))
        clamp.meta.update(node.meta)
        sink.replace_input_with(node, clamp)


def _settle_add(tensors: _Tensors, node: Node, sink: Any) -> bool:
    a, b = (_source(argument) for argument in node.args)
    if a is None or b is None:
        return True
    if tensors.is_fixed(b):
        a, b = b, a
    if tensors.is_fixed(b) or (tensors.is_fixed(a) and tensors.is_fixed(sink)):
        return False
    if tensors.is_fixed(a):
        share = int(tensors[a] / tensors[sink] * NARROW)
        if not share:  # a thousandth of the other: no scale of the sum suits both
            return False
        tensors.fix(sink, tensors[a] * NARROW / share)
    tensors.fix(sink)
    for free in (a, b):
        if not tensors.is_fixed(free):
            share = math.ceil(tensors[free] / tensors[sink] * NARROW * (1 - 1e-12))
            tensors.fix(free, tensors[sink] * share / NARROW)
    return True


def _settle_shift(graph: GraphModule, tensors: _Tensors, node: Node, sink: Any) -> bool:
    """Put a sum with a positive constant on the grid of its input, shifted by whole steps; False if that is impossible.

    The sum's range was that of its quantizer or clamp; the new grid reaches beyond it, so a clamp has to stay.
    """
    x, holder = (_source(argument) for argument in node.args)
    if x is None or holder is None or holder.args[0].op != "get_attr":  # type: ignore[union-attr]
        return False
    value = constant(graph, holder.args[0])  # type: ignore[arg-type]
    old, zero, low, high = float(sink.args[1]), *(int(number) for number in sink.args[2:5])
    if value.numel() != 1 or float(value) <= 0 or tensors.is_fixed(x) or not tensors.alone(sink):
        return False
    steps = math.floor(float(value) / tensors[x])
    moved = int(x.args[2]) - steps  # type: ignore[arg-type]
    if steps < COARSEST or moved < low:
        return False
    last = sink.args[0]
    limits = bounds(last) if last.target in CLAMPS else ((low - zero) * old, (high - zero) * old)
    top = (high - int(x.args[2])) * tensors[x] + float(value)  # type: ignore[arg-type]
    if abs(limits[0]) > old / 2 or not (abs(limits[1] - 6) < old or limits[1] > top - old):
        return False  # neither relu nor relu6, which both engines apply for free
    tensors.fix(x, float(value) / steps)
    tensors.fix(holder, float(value) / (high - low))
    tensors.zero[holder] = low
    tensors.follow(sink, x, moved)
    if last.target not in CLAMPS:
        with graph.graph.inserting_before(sink):
            clamp = graph.graph.call_function(aten.hardtanh.default, (node, 0.0, 6.0))
        clamp.meta.update(node.meta)
        sink.replace_input_with(node, clamp)
    return True


def _settle_product(tensors: _Tensors, sources: list[Node | None], factor: float, sink: Node) -> bool:
    if any(source is None for source in sources):
        return True
    if tensors.is_fixed(sink):
        return False
    product = factor
    for source in sources:
        assert source is not None
        tensors.fix(source)
        product *= tensors[source]
    ratio = product / tensors[sink]
    tensors.fix(sink, product / _below(ratio, WIDE))
    return True


def _below(ratio: float, widest: int) -> float:
    """The greatest m / D <= `ratio`, like `above`; D exceeds `widest` if even 1 / `widest` is too large."""
    best = 0.0
    for m in range(1, min(64, max(int(ratio * widest), 1)) + 1):
        odd = math.ceil(m / ratio * (1 - 1e-12))
        odd += odd % 2 == 0
        if odd <= widest or m == 1:
            best = max(best, m / odd)
    for odd in range(widest, max(widest - 64, 0), -2):
        best = max(best, int(ratio * odd * (1 + 1e-12)) / odd)
    return best
