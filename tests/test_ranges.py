from __future__ import annotations

import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchao.quantization.pt2e import MinMaxObserver

from edgekit import choices
from edgekit.config.recipe import QuantizeSection
from edgekit.errors import InputError
from edgekit.quantize import _ranges, ptq
from edgekit.quantize.histogram import BINS, Histogram, grid
from edgekit.quantize.ranges import auto, entropy, minmax, mse, percentile
from tests import nets

Float64 = npt.NDArray[np.float64]


def seen(*tensors: Tensor) -> Histogram:
    histogram = Histogram()
    for tensor in tensors:
        assert histogram(tensor) is tensor
    return histogram


def never(low: float, high: float) -> float:
    raise AssertionError("this rule looks at the histogram alone")


def normal(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def quantization_error(values: Float64, low: float, high: float) -> float:
    """Mean squared error of an affine int8 grid, by hand."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255
    zero = np.rint(-128 - low / scale)
    steps = np.clip(np.rint(values / scale) + zero, -128, 127)
    error: Float64 = (steps - zero) * scale - values
    return float((error**2).mean())


# --- the histogram


values = st.lists(
    st.lists(st.floats(-1e4, 1e4, width=32, allow_subnormal=False), min_size=1, max_size=40), min_size=1, max_size=5
)  # fmt: skip


@given(values, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_histogram_counts_every_value_whatever_the_order(tensors: list[list[float]], shuffle: Any) -> None:
    histogram = seen(*(torch.tensor(tensor, dtype=torch.float32) for tensor in tensors))
    shuffled = list(tensors)
    shuffle.shuffle(shuffled)
    again = seen(*(torch.tensor(tensor, dtype=torch.float32) for tensor in shuffled))
    assert all(torch.equal(a, b) for a, b in zip(histogram.buffers(), again.buffers(), strict=True))
    every = np.array([value for tensor in tensors for value in tensor], np.float32).astype(np.float64)
    first, exponent = histogram.place.tolist()
    expected, _ = np.histogram(every, np.ldexp(np.arange(first, first + BINS + 1, dtype=np.float64), exponent))
    np.testing.assert_array_equal(histogram.counts.numpy(), expected)
    assert (histogram.low, histogram.high) == (every.min(), every.max())


def test_histogram_does_not_grow_with_the_images() -> None:
    histogram = Histogram()
    sizes = []
    for number in range(200):
        histogram(normal(1000, number) * (1 + number))
        sizes.append(sum(buffer.numel() * buffer.element_size() for buffer in histogram.buffers()))
    assert sizes[4] == sizes[199]
    assert int(histogram.counts.sum()) == 200_000


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_histogram_refuses_what_is_not_finite(bad: float) -> None:
    with pytest.raises(FloatingPointError):
        seen(torch.tensor([0.0, bad, 1.0]))


@pytest.mark.parametrize(
    ("low", "high"), [(-1.1, 1.0), (0.0, 6.0), (-0.3, 0.0), (2.0, 5.0), (-7.0, -1.0), (-1e-7, 3e-7)]
)
def test_grid_is_that_of_torchaos_observer(low: float, high: float) -> None:
    reference = MinMaxObserver(torch.int8, torch.per_tensor_affine, quant_min=-128, quant_max=127, eps=1e-12)
    reference(torch.tensor([low, high]))
    scale, zero = (float(number) for number in reference.calculate_qparams())
    found = grid(low, high)
    assert found[0] == pytest.approx(scale, rel=1e-6)
    assert found[1] == zero


def test_grid_of_a_dead_tensor_is_usable() -> None:
    scale, zero = grid(0.0, 0.0)
    assert scale == pytest.approx(1 / 255)
    assert zero == -128


# --- the rules


@pytest.mark.parametrize("rule", choices.names("edgekit.quantize.ranges"))
def test_every_rule_covers_a_tensor_of_few_values(rule: str) -> None:
    module = choices.pick("edgekit.quantize.ranges", rule, "quantize.range")
    for few in ([0.0], [3.0], [-2.0, -2.0], [0.0, 1.0], [-1.0, 0.5]):
        found = module.limits(seen(torch.tensor(few)), lambda low, high: abs(high - low))
        assert -1e9 < found.low <= found.high < 1e9
        assert quantization_error(np.array(few), found.low, found.high or 1.0) < 0.01


def test_minmax_is_exact() -> None:
    tensor = normal(1000)
    found = minmax.limits(seen(tensor[:300], tensor[300:]), never)
    assert (found.low, found.high) == (float(tensor.min()), float(tensor.max()))


def test_percentile_leaves_out_one_value_of_ten_thousand_at_each_end() -> None:
    tensor = normal(200_000)
    tensor[:3] = torch.tensor([50.0, -40.0, 30.0])
    found = percentile.limits(seen(*torch.split(tensor, 20_000)), never)
    low, high = np.quantile(tensor.numpy(), [1e-4, 1 - 1e-4])
    assert found.low == pytest.approx(low, abs=0.05)
    assert found.high == pytest.approx(high, abs=0.05)


def test_percentile_keeps_the_end_at_zero_behind_a_relu() -> None:
    found = percentile.limits(seen(normal(50_000).relu()), never)
    assert found.low == 0
    assert 3.0 < found.high < 4.5


@pytest.mark.parametrize(
    "tensor",
    [
        normal(20_000),
        normal(20_000).relu(),
        normal(20_000) ** 3,
        torch.cat([normal(20_000).relu(), torch.full((3,), 40.0)]),
        torch.cat([normal(20_000) - 2, torch.tensor([60.0, -9.0])]),
    ],
    ids=["normal", "relu", "heavy tails", "outliers behind a relu", "one outlier at each end"],
)
def test_mse_is_as_good_as_the_best_of_a_brute_force_search(tensor: Tensor) -> None:
    found = mse.limits(seen(tensor), never)
    exact = tensor.double().numpy()
    low, high = min(exact.min(), 0.0), max(exact.max(), 0.0)
    shares = np.linspace(0.05, 1, 60)
    errors = [quantization_error(exact, a * low, b * high) for a in (shares if low else [1.0]) for b in shares]
    assert quantization_error(exact, found.low, found.high) <= min(errors) * 1.02


def divergence(exact: Float64, low: float, high: float) -> float:
    """KL divergence in bits of 2048 bins from what 256 levels keep of them, with plain loops."""
    counts, edges = np.histogram(exact[exact != 0], 2048, (exact.min(), exact.max()))
    centres = (edges[1:] + edges[:-1]) / 2
    inside = np.flatnonzero((centres >= low) & (centres <= high))
    p = counts[inside].astype(np.float64)
    q = np.zeros(len(inside))
    for level in range(256):
        members = [place for place in range(len(inside)) if place * 256 // len(inside) == level and p[place]]
        if members:
            q[members] = p[members].mean()
    p[0] += counts[: inside[0]].sum()
    p[-1] += counts[inside[-1] + 1 :].sum()
    p, q = p / p.sum(), q / q.sum()
    q[(q == 0) & (p > 0)] = 1e-9
    return float(sum(a * np.log2(a / b) for a, b in zip(p, q, strict=True) if a))


def test_entropy_finds_about_the_range_of_least_divergence() -> None:
    tensor = torch.cat([normal(100_000).abs(), torch.linspace(0, 100, 4)])
    found = entropy.limits(seen(tensor), never)
    exact = tensor.double().numpy()
    shares = np.linspace(0.1, 1, 40)
    costs = [divergence(exact, 0.0, share * exact.max()) for share in shares]
    assert divergence(exact, 0.0, found.high) <= min(costs) * 1.1
    assert found.high < 50
    assert found.low == 0


def test_entropy_is_not_ruled_by_the_zeros_behind_a_relu() -> None:
    some, many = normal(50_000).relu(), torch.cat([normal(50_000).relu(), torch.zeros(500_000)])
    few, more = (entropy.limits(seen(tensor), never) for tensor in (some, many))
    assert more.high == pytest.approx(few.high, rel=0.1)


def test_auto_takes_the_rule_with_the_least_cost() -> None:
    histogram = seen(torch.cat([normal(50_000), torch.tensor([30.0])]))
    wide = auto.limits(histogram, lambda low, high: -high)
    narrow = auto.limits(histogram, lambda low, high: high - low)
    assert wide.rule == "minmax"
    assert narrow.high == min(rule(histogram, never).high for rule in auto.RULES)


def test_auto_asks_for_no_cost_when_all_rules_agree() -> None:
    assert auto.limits(seen(torch.zeros(10)), never).high == 0


# --- which tensor takes which rule


@pytest.fixture(scope="module")
def observed() -> ptq.Observed:
    section = QuantizeSection()
    return ptq.observe(nets.settled(nets.Every()), nets.SIZE, nets.images(8, seed=1), nets.LEVELS, section)


def ranges(observed: ptq.Observed, **choice: Any) -> tuple[dict[str, str], dict[str, tuple[float, float]]]:
    """Rules that are reported, and all ranges by tensor."""
    prepared = copy.deepcopy(observed.prepared)
    chosen = _ranges.decide(prepared, QuantizeSection(**choice), observed.pixels, observed.images)
    decided = {}
    for tensor, nodes in _ranges.observers(prepared).items():
        assert tensor.decided is not None
        decided[_ranges.title(nodes[0])] = (tensor.decided.low, tensor.decided.high)
    return chosen, decided


def test_decide_gives_a_named_layer_its_own_rule(observed: ptq.Observed) -> None:
    _, plain = ranges(observed)
    chosen, special = ranges(observed, ranges={"down.conv": "mse", "silu": "percentile"})
    assert chosen["down.conv"] == "mse"
    assert chosen["silu.project.conv"] == "percentile"
    assert chosen["swish.project.conv"] == "minmax"
    assert special["swish.project.conv"] == plain["swish.project.conv"]
    assert special["silu.project.conv"] != plain["silu.project.conv"]


def test_decide_reports_nothing_when_one_rule_serves_all(observed: ptq.Observed) -> None:
    assert ranges(observed, range="mse")[0] == {}


def test_decide_keeps_the_whole_range_of_input_and_output(observed: ptq.Observed) -> None:
    _, plain = ranges(observed)
    _, clipped = ranges(observed, range="percentile")
    assert clipped["head.3"] == plain["head.3"]
    assert clipped["input"] == (-1.0, 1.0)  # of the pixels, not of the images seen
    assert clipped != plain


def test_quantize_names_near_layers_when_ranges_is_unknown() -> None:
    section = QuantizeSection(ranges={"head.33": "mse"})
    with pytest.raises(InputError, match=r'quantize\.ranges = "head\.33": no such layer; did you mean "head\.3"'):
        ptq.quantize(nets.settled(nets.Every()), nets.SIZE, nets.images(1), nets.LEVELS, section)


def test_decide_refuses_a_layer_without_a_quantized_tensor(observed: ptq.Observed) -> None:
    with pytest.raises(InputError, match=r'"head\.2" computes nothing that is quantized'):
        ranges(observed, ranges={"head.2": "mse"})


def outlying() -> nn.Module:
    """A channel that nothing reads is a hundred times larger than the others."""
    first, second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 1)
    with torch.no_grad():
        first.weight[3].mul_(100)
        second.weight[:, 3] = 0
    return nn.Sequential(first, nn.ReLU(), second).eval()


def test_auto_clips_a_tensor_whose_outliers_do_not_reach_the_output() -> None:
    torch.manual_seed(3)
    section = QuantizeSection(range="auto")
    result = ptq.quantize(outlying(), nets.SIZE, nets.images(4), nets.LEVELS, section)
    assert list(result.ranges) == ["0", "2"]
    assert result.ranges["0"] != "minmax"


def test_observe_remembers_as_much_of_many_images_as_of_few() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=8), nn.ReLU(), nn.Conv2d(4, 6, 1)).eval()

    def remembered(count: int) -> int:
        section = QuantizeSection(rounding="adaptive", calibration=count)
        found = ptq.observe(net, nets.SIZE, nets.images(count), nets.LEVELS, section)
        calibration = found.calibration
        kept = [*found.prepared.buffers(), *calibration.sums.values(), *found.images]
        kept += [tensor for moments in calibration.moments.values() for tensor in (moments.first, moments.second)]
        return sum(tensor.numel() * tensor.element_size() for tensor in kept)

    assert remembered(40) == remembered(200)
