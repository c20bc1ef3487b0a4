from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.fx import GraphModule, Node

from edgekit.config.recipe import QuantizeSection
from edgekit.graph.ops import DEQUANTIZE, QUANTIZE, WEIGHT_DEQUANTIZE
from edgekit.quantize import exact_scales, ptq
from edgekit.quantize.exact_scales import NARROW, WIDE, _below, above, clear_of_ties
from tests import nets

aten = torch.ops.aten
RATIOS = st.floats(math.log(1e-5), math.log(50)).map(math.exp)
WIDEST = st.sampled_from([NARROW, WIDE])


def fraction(ratio: float, widest: int) -> Fraction:
    """The one fraction with a denominator up to `widest` that a float can be: two of them are 1 / widest² apart."""
    exact = Fraction(ratio).limit_denominator(widest)
    assert float(exact) == pytest.approx(ratio, rel=1e-12), "no such fraction"
    return exact


def distance_to_half(n: int, ratio: Fraction) -> Fraction:
    return abs((n * ratio) % 1 - Fraction(1, 2))


@given(RATIOS, WIDEST)
def test_above_is_a_close_fraction_with_an_odd_denominator(ratio: float, widest: int) -> None:
    result = above(ratio, widest)
    assert result >= ratio * (1 - 1e-11)
    assert fraction(result, widest).denominator % 2 == 1
    if ratio * widest >= 1:
        assert result <= ratio * 1.005


@given(RATIOS, WIDEST)
def test_below_is_a_close_fraction_with_an_odd_denominator(ratio: float, widest: int) -> None:
    result = _below(ratio, widest)
    assert ratio * 0.995 <= result <= ratio * (1 + 1e-11)
    wide = max(widest, math.ceil(1 / ratio) + 2)
    assert fraction(result, wide).denominator % 2 == 1


@given(RATIOS, WIDEST, st.integers(-(2**24), 2**24))
def test_above_and_below_keep_every_product_off_the_halves(ratio: float, widest: int, n: int) -> None:
    assert distance_to_half(n, fraction(above(ratio, widest), widest)) >= Fraction(1, 2 * widest)
    if ratio * widest >= 1:
        assert distance_to_half(n, fraction(_below(ratio, widest), widest)) >= Fraction(1, 2 * widest)


@pytest.mark.parametrize("scale", [2 / 255, 2 / 255 * (1 + 1e-7)])
def test_clear_of_ties_moves_a_grid_of_pixels_off_the_halves(scale: float) -> None:
    pixels = (torch.arange(256, dtype=torch.float64) - 127.5) / 127.5
    assert float(((pixels / scale) % 1 - 0.5).abs().max()) < 1e-4  # all of them tie
    cleared = clear_of_ties(scale, pixels)
    assert scale <= cleared <= scale * 1.01
    assert float(((pixels / cleared) % 1 - 0.5).abs().min()) > 0.004


def test_clear_of_ties_takes_the_grey_levels_of_every_channel() -> None:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    levels = (torch.arange(256).view(1, 256) / 255 - mean.view(3, 1)) / std.view(3, 1)
    cleared = clear_of_ties(0.0187, levels.unsqueeze(2))
    assert float(((levels.double() / cleared) % 1 - 0.5).abs().min()) > 1e-4


class Branches(nn.Module):
    """Gate, residual, concatenation, moves, pooling: each kind of kernel that `settle` knows."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nets.conv(3, 8, 3, nn.ReLU6, stride=2)
        self.gate = nets.Gate(8, nn.Sigmoid)
        self.deep = nets.conv(8, 8, 3)
        self.side = nets.conv(8, 8, 1, nn.ReLU)
        self.pool = nn.MaxPool2d(2)
        self.head = nets.head(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x)
        y = torch.relu(y + self.deep(self.gate(y)))
        return self.head(torch.cat([self.pool(y), self.side(self.pool(y))], 1))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def before_and_after() -> tuple[GraphModule, GraphModule]:
    """`Branches`, quantized, as `settle` received and as it left it."""
    return settle_in_between(nets.settled(Branches()))


def settle_in_between(module: nn.Module, size: int = nets.SIZE) -> tuple[GraphModule, GraphModule]:
    kept: list[GraphModule] = []

    def spy(graph: GraphModule, example: torch.Tensor, pixels: torch.Tensor) -> int:
        kept.append(copy.deepcopy(graph))
        opened = exact_scales.settle(graph, example, pixels)
        kept.append(copy.deepcopy(graph))
        return opened

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ptq, "settle", spy)
        nets.quantize(module, size=size)
    return kept[0], kept[1]


def kernels(graph: GraphModule) -> Iterator[tuple[Node, list[float], float]]:
    """Node, scales of its quantized inputs, scale of its output: read off the graph by hand."""
    for node in graph.graph.nodes:
        inputs = [source for source in node.all_input_nodes if source.target is DEQUANTIZE]
        end = node
        while len(end.users) == 1 and next(iter(end.users)).target in (aten.relu.default, aten.relu6.default):
            end = next(iter(end.users))
        ends = [user for user in end.users if user.target is QUANTIZE]
        if node.op == "call_function" and node.target is not QUANTIZE and inputs and ends:
            yield node, [float(source.args[1]) for source in inputs], float(ends[0].args[1])


def weight_scales(graph: GraphModule, node: Node) -> torch.Tensor:
    weight: Any = next(source for source in node.all_input_nodes if source.target is WEIGHT_DEQUANTIZE)
    scales: torch.Tensor = getattr(graph, weight.args[1].target)
    return scales


def test_settle_leaves_fractions_with_odd_denominators_alone(
    before_and_after: tuple[GraphModule, GraphModule],
) -> None:
    seen = set()
    for node, inputs, output in kernels(before_and_after[1]):
        seen.add(node.target)
        ratios, widest, error = [], WIDE, 1e-9
        if node.target in (aten.conv2d.default, aten.linear.default):
            ratios = [float(scale) * inputs[0] / output for scale in weight_scales(before_and_after[1], node)]
            error = 1e-7  # weight scales are float32
        elif node.target is aten.add.Tensor:
            ratios, widest = [scale / output for scale in inputs], NARROW
        elif node.target is aten.mul.Tensor:
            ratios = [math.prod(inputs) / output]
        elif node.target is aten.mean.dim:
            ratios = [inputs[0] / (16 * 16) / output]
        elif node.target is aten.adaptive_avg_pool2d.default:
            ratios = [inputs[0] / (8 * 8) / output]
        elif node.target is aten.sigmoid.default:
            assert output == 1 / 256
        else:
            assert inputs == pytest.approx([output] * len(inputs), rel=0), "a move has one scale"
        for ratio in ratios:
            exact = Fraction(ratio).limit_denominator(widest)
            assert float(exact) == pytest.approx(ratio, rel=error)
            assert exact.denominator % 2 == 1
    assert len(seen) >= 8


def test_settle_enlarges_scales_by_less_than_a_percent_and_shrinks_none(
    before_and_after: tuple[GraphModule, GraphModule],
) -> None:
    old, new = before_and_after
    grown = []
    for was, now in zip(old.graph.nodes, new.graph.nodes, strict=True):
        assert was.name == now.name
        if was.target is QUANTIZE:
            assert was.args[2:] == now.args[2:]
            grown.append(now.args[1] / was.args[1])
        if was.target in (aten.conv2d.default, aten.linear.default):
            grown += (weight_scales(new, now) / weight_scales(old, was)).tolist()
    assert min(grown) >= 1 - 1e-6
    assert max(grown) <= 1.01
    assert max(grown) > 1


def test_settle_takes_means_over_more_pixels_than_its_widest_denominator() -> None:
    module = nets.settled(nn.Sequential(nets.conv(3, 4, 1, nn.Sigmoid), nets.head(4)))
    _, graph = settle_in_between(module, size=128)
    pool = [(inputs, output) for node, inputs, output in kernels(graph) if "pool" in node.name]
    (inputs, output), *_ = pool
    exact = Fraction(inputs[0] / 128**2 / output).limit_denominator(10**6)
    assert exact.numerator == 1
    assert exact.denominator > WIDE
    assert exact.denominator % 2 == 1


def test_settle_counts_open_ends_when_a_sum_and_both_its_inputs_are_settled() -> None:
    def run(net: Any, x: torch.Tensor) -> torch.Tensor:
        a, b, c = net.a(x), net.b(x), net.c(x)
        logits: torch.Tensor = net.head(((a + b) + (b + c)) + (a + c))
        return logits

    parts = {name: nets.conv(3, 8, 1) for name in "abc"}
    module = nets.settled(nets.Net(run, **parts, head=nets.head(8)))
    opened = []

    def spy(graph: GraphModule, example: torch.Tensor, pixels: torch.Tensor) -> int:
        opened.append(exact_scales.settle(graph, example, pixels))
        return opened[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ptq, "settle", spy)
        nets.quantize(module)
    assert opened[0] >= 1


def test_settle_does_not_clip_a_sum_when_one_term_is_tiny() -> None:
    def run(net: Any, x: torch.Tensor) -> torch.Tensor:
        y = net.stem(x)
        logits: torch.Tensor = net.head(y + net.deep(y) * net.small)
        return logits

    module = nets.Net(
        run, stem=nets.conv(3, 8), deep=nets.conv(8, 8), head=nets.head(8), small=nn.Parameter(torch.tensor([1e-6]))
    )
    old, new = settle_in_between(nets.settled(module))
    scales = [[float(node.args[1]) for node in graph.graph.nodes if node.target is QUANTIZE] for graph in (old, new)]
    assert all(now >= was * (1 - 1e-6) for was, now in zip(*scales, strict=True))


@pytest.mark.parametrize("rewrites", [None, ("hard_swish",)], ids=["all rewrites", "clamps stay"])
def test_settle_puts_the_sum_of_a_hard_swish_on_the_grid_of_its_input(rewrites: tuple[str, ...] | None) -> None:
    module = nets.settled(nn.Sequential(nets.conv(3, 8, 3, nn.Hardswish), nets.head(8)))
    images = nets.images(8, seed=1)
    graph = ptq.quantize(module, nets.SIZE, images, nets.LEVELS, QuantizeSection(), rewrites).program.module()
    add = next(node for node in graph.graph.nodes if node.target is aten.add.Tensor)
    x, three = (argument.args[0].args for argument in add.args)
    (clamp,) = add.users
    (sink,) = clamp.users
    assert sink.target is QUANTIZE
    steps = 3 / x[1]
    assert steps == pytest.approx(round(steps), abs=1e-6)
    assert sink.args[1:3] == (x[1], x[2] - round(steps))
    assert (127 - three[2]) * three[1] == pytest.approx(3)


def test_settle_leaves_no_open_end_in_a_sum_of_sums() -> None:
    def run(net: Any, x: torch.Tensor) -> torch.Tensor:
        y = net.stem(x)
        logits: torch.Tensor = net.head((net.a(y) + net.b(y)) + (net.c(y) + y))
        return logits

    parts = {name: nets.conv(8, 8, 1) for name in "abc"}
    module = nets.settled(nets.Net(run, **parts, stem=nets.conv(3, 8, 3, nn.ReLU), head=nets.head(8)))
    images = nets.images(8, seed=1)
    result = ptq.quantize(module, nets.SIZE, images, nets.LEVELS, QuantizeSection())
    assert result.open_ends == 0
    for _, inputs, output in (k for k in kernels(result.program.module()) if k[0].target is aten.add.Tensor):
        for scale in inputs:
            assert fraction(scale / output, NARROW).denominator % 2 == 1
