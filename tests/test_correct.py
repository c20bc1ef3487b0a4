from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Interpreter, Node
from torch.nn import functional
from torchao.quantization.pt2e.utils import _fuse_conv_bn_

from edgekit.config.recipe import QuantizeSection
from edgekit.graph import exported_program, integer_arithmetic
from edgekit.graph.ops import CLAMPS, QUANTIZE, WEIGHTED
from edgekit.quantize import _equalize, _rounding, ptq
from tests import nets

aten = torch.ops.aten


class Outputs(Interpreter):
    """Outputs of the weighted operators, in order."""

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if n.target in WEIGHTED:
            self.found.append(result.clone())
        return result

    def of(self, image: Tensor) -> list[Tensor]:
        self.found: list[Tensor] = []
        with torch.no_grad():
            self.run(image.unsqueeze(0))
        return self.found


def coarse(groups: int = 3) -> nn.Conv2d:
    """A depthwise convolution whose weights round badly: one large tap leaves few steps for the eight small ones."""
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 24, 3, groups=groups)
    with torch.no_grad():
        layer.weight.mul_(0.02)
        layer.weight[:, 0, 1, 1] = 1.0
    return layer


# --- batch norm


def test_batch_norm_is_folded_without_changing_the_float_function() -> None:
    module = nets.settled(nn.Sequential(nets.conv(3, 8, 3, nn.ReLU6), nets.conv(8, 8, 3, nn.ReLU, groups=8)))
    images = nets.images(8, seed=3)
    observed = ptq.observe(module, nets.SIZE, images, nets.LEVELS, QuantizeSection())
    assert not any(node.target is aten.batch_norm.default for node in observed.prepared.graph.nodes)
    torch.testing.assert_close(nets.run(observed.prepared, images), nets.run(module, images), rtol=1e-5, atol=1e-5)


# --- bias correction


def mean_error(correct: bool) -> Tensor:
    """Mean output error by channel of a quantized depthwise net, over its own images."""
    module = nn.Sequential(coarse()).eval()
    images = nets.images(32, seed=3).abs()  # a mean far from zero; still pixels
    section = QuantizeSection(bias_correction=correct)
    graph = ptq.quantize(module, nets.SIZE, images, nets.LEVELS, section).program.module()
    got = nets.run(integer_arithmetic.integer_graph(graph), images)
    scale, zero_point = next((n.args[1], n.args[2]) for n in graph.graph.nodes if n.target is QUANTIZE)
    rounded = torch.fake_quantize_per_tensor_affine(images, scale, zero_point, -128, 127)  # not the weights' doing
    return (got - nets.run(module, rounded)).mean((0, 2, 3))


def test_correct_biases_takes_back_the_mean_error_of_weight_rounding() -> None:
    before, after = mean_error(correct=False).abs(), mean_error(correct=True).abs()
    assert after.mean() < before.mean() / 4
    assert after.max() < before.max()


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_correct_biases_adds_the_lost_weight_times_the_mean_input(groups: int) -> None:
    torch.manual_seed(1)
    first, second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 3, groups=groups)
    module = nn.Sequential(first, nn.ReLU(), second).eval()
    images = nets.images(4, seed=5)
    biases = {}
    for correct in (False, True):
        section = QuantizeSection(bias_correction=correct)
        program = ptq.quantize(module, nets.SIZE, images, nets.LEVELS, section).program
        stored = {name: value.detach().double() for name, value in program.module().named_parameters()}
        biases[correct] = stored["2.bias"]
    with torch.no_grad():
        inputs = torch.relu(first(images)).double()
        lost = (second.weight.double() - stored["2.weight"]).sum((2, 3))
    expected = torch.zeros(16, dtype=torch.float64)
    for channel in range(16):  # by hand: which inputs an output channel sees
        start = channel // (16 // groups) * (8 // groups)
        expected[channel] = (lost[channel] * inputs.mean((0, 2, 3))[start : start + 8 // groups]).sum()
    half_a_step = 1e-4  # both are rounded to the int32 grid
    assert torch.allclose(biases[True] - biases[False], expected, atol=half_a_step)
    assert expected.abs().max() > 10 * half_a_step


# --- adaptive rounding


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 4, 1),
        nn.Conv2d(6, 4, 1, stride=2),
        nn.Conv2d(6, 4, 3, stride=2, padding=1),
        nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6),
        nn.Conv2d(6, 12, 3, groups=3),
        nn.Conv2d(6, 4, 1, padding=1),
        nn.Linear(9, 4),
    ],
    ids=["pointwise", "strided", "stride and padding", "dilated depthwise", "groups", "padded pointwise", "linear"],
)
def test_vectors_are_what_the_weights_multiply(layer: nn.Conv2d | nn.Linear) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 6, 9, 9) if isinstance(layer, nn.Conv2d) else torch.randn(1, 5, 9)
    graph = torch.export.export(layer.eval(), (x,), strict=False).module()
    (node,) = [node for node in graph.graph.nodes if node.target in WEIGHTED]
    found = _rounding.vectors(node, x, tuple(layer.weight.shape))
    assert found is not None
    weight = layer.weight.detach().reshape(found.shape[0], -1, found.shape[1])
    assert layer.bias is not None
    product_ = (weight @ found).flatten(0, 1) + layer.bias.detach().unsqueeze(1)
    with torch.no_grad():
        expected = layer(x)
    expected = expected.flatten(2)[0] if isinstance(layer, nn.Conv2d) else expected[0].T
    torch.testing.assert_close(product_, expected, rtol=1e-4, atol=1e-5)


def test_moments_are_those_of_all_vectors_together() -> None:
    moments = _rounding.Moments()
    every = torch.randn(2, 5, 300, generator=torch.Generator().manual_seed(0)) + 1
    for part in torch.split(every, 100, dim=2):
        moments.add(part)
    for group in range(2):
        torch.testing.assert_close(
            moments.covariance()[group], torch.cov(every[group].double(), correction=0), rtol=1e-4, atol=1e-5
        )
        by_hand = every[group].double() @ every[group].double().T / 300
        torch.testing.assert_close(moments.uncentred()[group], by_hand, rtol=1e-4, atol=1e-5)


def test_adapt_is_never_worse_than_nearest_and_near_the_best_of_all_roundings() -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(9, 9, generator=generator, dtype=torch.float64)
    hessian = (mixing @ mixing.T).unsqueeze(0)
    weight = torch.randn(20, 9, generator=generator)
    scales = weight.abs().amax(1) / 20
    rounded = _rounding.adapt(weight, scales, hessian)
    steps, exact = rounded / scales.double().unsqueeze(1), weight.double() / scales.double().unsqueeze(1)
    assert torch.allclose(steps, steps.round(), atol=1e-9)
    assert bool(((steps - exact).abs() < 1 + 1e-9).all())
    damped = hessian[0] + _rounding.DAMPING * hessian[0].diagonal().mean() * torch.eye(9)

    def cost(candidate: Tensor, row: int) -> float:
        error = candidate - exact[row]
        return float(error @ damped @ error)

    ratios = []
    for row in range(20):
        best = min(
            cost(exact[row].floor() + torch.tensor(bits, dtype=torch.float64), row)
            for bits in product((0, 1), repeat=9)
        )
        assert cost(steps[row], row) <= cost(exact[row].round(), row) + 1e-9
        ratios.append(cost(steps[row], row) / best)
    assert sum(ratios) / len(ratios) < 1.5
    nearest = [cost(exact[row].round(), row) / cost(steps[row], row) for row in range(20)]
    assert sum(nearest) / len(nearest) > 2


def noise(module: nn.Module, images: Tensor, held_out: Tensor, **choice: Any) -> float:
    """Squared error of the integer graph on other images than it was made with."""
    section = QuantizeSection(**choice)
    program = ptq.quantize(module, nets.SIZE, images, nets.LEVELS, section).program
    got = nets.run(integer_arithmetic.integer_graph(program.module()), held_out)
    return float((got - nets.run(module, held_out)).square().mean())


def test_adaptive_rounding_lowers_the_error_of_a_layer_on_images_that_it_has_not_seen() -> None:
    module = nn.Sequential(coarse(groups=1)).eval()
    held_out = nets.images(16, seed=4)
    exact = nets.run(module, held_out)
    errors = {}
    for way in ("nearest", "adaptive"):
        section = QuantizeSection(rounding=way)
        program = ptq.quantize(module, nets.SIZE, nets.images(24, seed=3), nets.LEVELS, section).program
        got = torch.cat([Outputs(program.module()).of(image)[0] for image in held_out])
        errors[way] = float((got - exact).square().mean())
    assert errors["adaptive"] < errors["nearest"] * 0.7


def test_adaptive_rounding_keeps_weights_on_their_grid_and_gives_the_same_twice() -> None:
    module = nets.settled(nn.Sequential(nets.conv(3, 8, 3, nn.ReLU6), nets.conv(8, 8, 3, groups=8), nets.head(8)))
    section = QuantizeSection(rounding="adaptive")
    first, second = (
        ptq.quantize(module, nets.SIZE, nets.images(4), nets.LEVELS, section).program.module() for _ in range(2)
    )
    images = nets.images(3, seed=9)
    assert torch.equal(nets.run(first, images), nets.run(second, images))
    assert torch.equal(nets.run(exported_program.fold_constants(first), images), nets.run(first, images))


def test_adaptive_rounding_says_which_layers_are_too_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_rounding, "WIDEST", 10)
    module = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    section = QuantizeSection(rounding="adaptive")
    (note,) = ptq.quantize(module, nets.SIZE, nets.images(2), nets.LEVELS, section).notes
    assert note == "rounding: 2 stay rounded to nearest: too wide for these images"


# --- equalisation


def uneven(module: nn.Module) -> nn.Module:
    """The same network with channels of very different sizes behind its batch norms."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                factor = 10 ** torch.empty(len(part.weight)).uniform_(-1.5, 0, generator=generator)
                part.weight.mul_(factor)
                part.bias.mul_(factor)
    return module


def equalized(module: nn.Module) -> tuple[Any, Any, tuple[int, int]]:
    """Graphs before and after, and the counts."""
    graphs: list[Any] = [exported_program.trace(module, nets.SIZE).module() for _ in range(2)]
    for graph in graphs:
        for name, value in [*graph.named_parameters(), *graph.named_buffers()]:
            owner, _, leaf = name.rpartition(".")
            holder = graph.get_submodule(owner)
            kind = holder._parameters if leaf in holder._parameters else holder._buffers
            kind[leaf] = type(value)(value.detach().clone()) if isinstance(value, nn.Parameter) else value.clone()
        with torch.no_grad():
            _fuse_conv_bn_(graph)
    return graphs[0], graphs[1], _equalize.equalize(graphs[1], nets.images(24, seed=6))


@pytest.mark.parametrize(("activation", "scales"), [(nn.ReLU, 5), (nn.ReLU6, 2)])
def test_equalize_keeps_the_float_function(activation: type[nn.Module], scales: int) -> None:
    module = uneven(
        nets.settled(
            nn.Sequential(
                nets.conv(3, 8, 3, activation, stride=2),
                nets.Block(8, activation, nn.Sigmoid),
                nets.Block(8, activation, nn.Hardsigmoid),
                nets.head(8),
            )
        )
    )
    before, after, (scaled, shared) = equalized(module)
    held_out = nets.images(32, seed=7)
    exact = nets.run(before, held_out)
    assert float((nets.run(after, held_out) - exact).abs().max()) < 1e-4 * float(exact.abs().max())
    assert scaled == scales
    assert shared == 9


def test_equalize_brings_channels_to_like_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_equalize, "SMALLEST", 1e-6)
    module = uneven(nets.settled(nn.Sequential(nets.conv(3, 8, 3, nn.ReLU), nets.conv(8, 8, 3, None, groups=8))))
    before, after, counts = equalized(module)
    assert counts == (1, 1)
    spread = []
    for graph in (before, after):
        tops = torch.stack([Outputs(graph).of(image)[0].relu().amax((0, 2, 3)) for image in nets.images(24, seed=6)])
        spread.append(float(tops.amax(0).max() / tops.amax(0).min()))
    assert spread[0] > 5
    assert spread[1] == pytest.approx(1, rel=1e-3)


def keeps(run: Callable[[Any, Tensor], Tensor], **parts: nn.Module) -> bool:
    """Whether nothing is scaled."""
    return equalized(uneven(nets.settled(nets.Net(run, **parts))))[2][0] == 0


def test_equalize_scales_nothing_that_is_not_exact() -> None:
    a, b = nets.conv(3, 8), nets.conv(8, 8)
    assert keeps(lambda net, x: net.b(functional.silu(net.a(x))), a=a, b=b)
    assert keeps(lambda net, x: net.b(torch.cat([net.a(x), x], 1)), a=nets.conv(3, 5), b=b)
    assert keeps(lambda net, x: net.b(net.a(x) + 1.0), a=a, b=b)
    assert keeps(lambda net, x: net.b(functional.pad(net.a(x), (1, 1), value=0.5)), a=a, b=b)
    assert keeps(lambda net, x: (lambda y: net.b(y) + y)(net.a(x)), a=a, b=b)  # the output itself
    assert keeps(lambda net, x: net.b(net.b(net.a(x))), a=a, b=b)  # one weight, two layers
    assert keeps(lambda net, x: net.b(functional.relu6(net.a(x))), a=a, b=b)
    assert not keeps(lambda net, x: net.b(functional.pad(net.a(x), (1, 1))), a=a, b=b)


def test_equalize_lowers_the_error_of_a_net_with_uneven_channels() -> None:
    parts = uneven(nets.settled(nn.Sequential(nets.conv(3, 16, 3, nn.ReLU), nets.conv(16, 16, 3, None, groups=16))))
    module = nn.Sequential(parts, nn.Conv2d(16, 4, 1)).eval()
    images, held_out = nets.images(12, seed=3), nets.images(8, seed=4)
    plain, even = (noise(module, images, held_out, equalize=way) for way in (False, True))
    assert even < plain * 0.7


def test_a_clamp_is_never_between_an_equalized_graph_and_its_kernel() -> None:
    module = uneven(nets.settled(nn.Sequential(nets.conv(3, 8, 3, nn.ReLU), nets.conv(8, 8, 3, None, groups=8))))
    result = ptq.quantize(module, nets.SIZE, nets.images(8), nets.LEVELS, QuantizeSection(equalize=True))
    assert result.notes == ("equalize: channels of 1 of 1 groups of layers were scaled",)
    graph = result.program.module()
    assert sum(node.target in CLAMPS for node in graph.graph.nodes) <= 1
