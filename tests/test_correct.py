from __future__ import annotations

import pytest
import torch
from torch import nn

from edgekit.quantize import _integer, _ptq
from edgekit.recipe import QuantizeSection
from tests import nets


def mean_error(correct: bool) -> torch.Tensor:
    """Mean output error by channel of a quantized depthwise net whose weights round badly, over its own images."""
    torch.manual_seed(0)
    depthwise = nn.Conv2d(3, 24, 3, groups=3)
    with torch.no_grad():
        depthwise.weight.mul_(0.02)
        depthwise.weight[:, 0, 1, 1] = 1.0  # one large tap leaves few steps for the eight small ones
    module = nn.Sequential(depthwise).eval()
    images = nets.images(32, seed=3).abs()  # a mean far from zero; still pixels
    section = QuantizeSection(bias_correction=correct)
    program, _ = _ptq.quantize(module, nets.SIZE, images, nets.LEVELS, section)
    got = nets.run(_integer.integer_graph(program.module()), images)
    return (got - nets.run(module, images)).mean((0, 2, 3))


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
        program, _ = _ptq.quantize(module, nets.SIZE, images, nets.LEVELS, QuantizeSection(bias_correction=correct))
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
