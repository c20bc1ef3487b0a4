"""Intervals and the test for steadiness, by simulation of processes whose truth is known."""

from __future__ import annotations

from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.measurements import Timing
from edgekit.runtime import _steady
from edgekit.verdict import stats as stats_module
from tests.report_sample import timing

TRIES = 100


def simulate(
    generator: np.random.Generator,
    level: float = 1.0,
    *,
    rounds: int = 5,
    size: int = 100,
    autocorrelation: float = 0.6,
    noise: float = 0.02,
    levels: np.ndarray | None = None,
    between: float = 0.005,
    drift: float = 0.0,
    spikes: float = 0.01,
) -> Timing:
    """Times around `level`: AR(1) noise to one side, a level for each round, drift over the run, spikes."""
    if levels is None:
        levels = generator.normal(0, between, rounds)
    levels = levels + drift * np.linspace(-0.5, 0.5, rounds)
    samples = np.empty((rounds, size))
    for row, offset in zip(samples, levels, strict=True):
        shock = generator.normal(0, noise, size)
        for i in range(1, size):
            shock[i] = autocorrelation * shock[i - 1] + np.sqrt(1 - autocorrelation**2) * shock[i]
        row[:] = level * np.exp(offset + np.abs(shock))
        row *= np.where(generator.random(size) < spikes, generator.uniform(1.5, 5, size), 1)
    flat = tuple(map(float, samples.ravel()))
    figures: dict[str, Any] = stats_module.summary(flat)
    return replace(timing("tflite-int8", "litert", 1.0), samples=flat, round_sizes=(size,) * rounds, **figures)


@pytest.mark.parametrize(
    "process",
    [
        {"autocorrelation": 0.95},
        {"between": 0.02},
        {"drift": 0.03},
        {"spikes": 0.1, "rounds": 3},
        {"size": 8},
    ],
    ids=str,
)
def test_two_profiles_of_one_process_agree_in_95_of_100_tries(process: dict[str, float]) -> None:
    generator = np.random.default_rng(5)
    pairs = [(simulate(generator, **process), simulate(generator, **process)) for _ in range(TRIES)]  # type: ignore[arg-type]
    assert sum(not stats_module.different(a, b) for a, b in pairs) >= 0.95 * TRIES


@pytest.mark.parametrize("alike", [0.3, 0.5])
def test_profiles_agree_on_a_machine_that_is_disturbed_for_seconds(alike: float) -> None:
    """What slows it down by 10 % lasts longer than a round, so that rounds are not independent of their neighbours."""
    generator = np.random.default_rng(9)

    def disturbed() -> Timing:
        levels = generator.normal(0, 0.1, 10)
        for k in range(1, 10):
            levels[k] = alike * levels[k - 1] + np.sqrt(1 - alike**2) * levels[k]
        return simulate(generator, levels=levels, rounds=10)

    pairs = [(disturbed(), disturbed()) for _ in range(2 * TRIES)]
    assert sum(not stats_module.different(a, b) for a, b in pairs) >= 0.95 * 2 * TRIES


def test_agreement_is_not_bought_with_wide_intervals() -> None:
    """Ten rounds of a quiet process find 3 % nearly always, and not 0.3 %."""
    generator = np.random.default_rng(6)
    pairs = [(simulate(generator, 1.03, rounds=10), simulate(generator, rounds=10)) for _ in range(40)]
    found = [stats_module.ratio(a, b) for a, b in pairs]
    assert sum(each.differs for each in found) >= 38
    assert median(np.ptp(each.ci) for each in found) < 0.03  # type: ignore[arg-type]
    near = [stats_module.different(simulate(generator, 1.003, rounds=10), b) for _, b in pairs]
    assert sum(near) <= 8


def test_rounds_that_took_turns_cancel_what_the_machine_did() -> None:
    """Rounds differ by 5 %, the same for both: 3 % between the files is seen only if rounds are drawn together."""
    generator = np.random.default_rng(7)
    apart = together = 0
    for _ in range(30):
        levels = generator.normal(0, 0.05, 5)
        a, b = simulate(generator, 1.03, levels=levels), simulate(generator, levels=levels)
        together += stats_module.different(a, b, interleaved=True)
        apart += stats_module.different(a, b)
    assert together >= 28
    assert apart <= 5


def test_intervals_cover_the_truth_and_narrow_with_more_rounds() -> None:
    """Truth: percentiles of five million independent draws; p99 without spikes, whose rate is another parameter."""
    generator = np.random.default_rng(8)
    truth = np.exp(np.abs(generator.normal(0, 0.02, 1_000_000)) + generator.normal(0, 0.005, 1_000_000))
    wanted = {name: np.percentile(truth, q) for name, q in (("p50_ci", 50), ("p90_ci", 90), ("p99_ci", 99))}
    held = dict.fromkeys(wanted, 0)
    for _ in range(TRIES):
        one = simulate(generator, autocorrelation=0, spikes=0, rounds=8)
        found = stats_module.intervals(one.samples, one.round_sizes)
        for name, value in wanted.items():
            low, high = found[name]
            held[name] += low <= value <= high
    assert min(held.values()) >= 0.88 * TRIES, held
    widths = {}
    for rounds in (5, 20):
        many = [simulate(generator, rounds=rounds) for _ in range(9)]
        found_ = [stats_module.intervals(one.samples, one.round_sizes)["p50_ci"] for one in many]
        assert all(low <= one.p50_ms <= high for one, (low, high) in zip(many, found_, strict=True))
        widths[rounds] = median(high - low for low, high in found_)
    assert widths[20] < 0.6 * widths[5]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 19, 1000])
def test_few_samples_or_unknown_rounds_have_an_interval_or_none(count: int) -> None:
    samples = np.random.default_rng(0).lognormal(0, 0.1, count)
    found = stats_module.intervals(samples)  # type: ignore[arg-type]
    if count == 1:
        assert (found["p50_ci"], found["p99_ci"]) == (None, None)
    else:
        assert all(low <= high and np.isfinite(high) for low, high in (found["p50_ci"], found["p99_ci"]))
    assert found == stats_module.intervals(samples)  # type: ignore[arg-type]


def test_intervals_refuse_rounds_that_do_not_add_up() -> None:
    with pytest.raises(ValueError, match="the rounds have 5 samples in total, but there are 3"):
        stats_module.intervals([1.0, 2.0, 3.0], [2, 3])


def test_equal_times_have_a_point_for_an_interval() -> None:
    same = replace(timing("tflite-int8", "litert", 2.0), samples=(2.0,) * 50, round_sizes=(10,) * 5)
    assert stats_module.intervals(same.samples, same.round_sizes)["p50_ci"] == pytest.approx((2.0, 2.0))
    assert not stats_module.different(same, same)
    assert stats_module.outliers(same.samples) == 0


def test_outliers_are_counted_by_hand() -> None:
    """Median 10, MAD 1, so more than 3 * 1.4826 away: 20 and 100."""
    assert stats_module.outliers([9, 9, 9, 10, 11, 11, 11, 20, 100, 10, 8]) == pytest.approx(2 / 11)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 9, 19, 100])
def test_t_quantile_agrees_with_scipy(degrees: int) -> None:
    expected = pytest.importorskip("scipy.stats").t.ppf(0.975, degrees)
    assert stats_module.t_quantile(0.975, degrees) == pytest.approx(expected, rel=0.01)


# when warm-up ends


def stream(generator: np.random.Generator, levels: np.ndarray, noise: float = 0.02, spikes: float = 0.0) -> list[float]:
    """Times at `levels` with noise to one side and spikes of 2 to 10 times."""
    times = levels * np.exp(np.abs(generator.normal(0, noise, len(levels))))
    return [float(t) for t in times * np.where(generator.random(len(times)) < spikes, generator.uniform(2, 10), 1)]


@pytest.mark.parametrize("spikes", [0.0, 0.05])
def test_steady_times_are_called_steady_soon(spikes: float) -> None:
    generator = np.random.default_rng(1)
    found = [_steady.first_steady(stream(generator, np.ones(200), spikes=spikes)) for _ in range(TRIES)]
    assert sum(each is not None and each <= 50 for each in found) >= 0.95 * TRIES
    assert None not in found


@pytest.mark.parametrize("tau", [10, 40])
@pytest.mark.parametrize("spikes", [0.0, 0.05])
def test_warming_up_is_waited_for(tau: float, spikes: float) -> None:
    """Twice as slow at first, decaying with `tau` inferences: what is left at the end of the window is below 8 %."""
    generator = np.random.default_rng(2)
    levels = 1 + np.exp(-np.arange(600) / tau)
    left = []
    for _ in range(40):
        found = _steady.first_steady(stream(generator, levels, spikes=spikes))
        assert found is not None
        left.append(levels[found] - 1)
    assert np.percentile(left, 95) < 0.08


def test_a_change_of_level_is_waited_for() -> None:
    """The clock drops by a fifth after 60 inferences: no window that holds the drop in its middle is steady."""
    generator = np.random.default_rng(3)
    for sign in (1.25, 0.8):
        levels = np.where(np.arange(200) < 60, 1.0, sign)
        for _ in range(20):
            assert not _steady.steady(stream(generator, levels)[: 60 + _steady.WINDOW // 2])
            assert _steady.steady(stream(generator, levels, noise=0.005)[: 61 + _steady.WINDOW])


def test_steady_needs_a_whole_window() -> None:
    assert not _steady.steady([1.0] * (_steady.WINDOW - 1))
    assert _steady.steady([1.0] * _steady.WINDOW)
    assert _steady.steady([1.0] * 8, 8)
    with pytest.raises(ValueError, match="8 are needed"):
        _steady.steady([1.0], 7)


@given(st.lists(st.floats(0.5, 2.0), min_size=40, max_size=40), st.floats(1e-3, 1e3))
def test_steady_does_not_depend_on_unit_or_direction(times: list[float], unit: float) -> None:
    assert _steady.steady(times) == _steady.steady([unit * t for t in times])


@pytest.mark.parametrize("values", [(1, 2, 3, 4, 5, 6, 7, 8), (8, 7, 6, 5, 4, 3, 1, 2), (3, 1, 4, 2, 6, 5, 8, 7)])
def test_chance_and_slope_agree_with_scipy(values: tuple[float, ...]) -> None:
    stats = pytest.importorskip("scipy.stats")
    places = list(range(8))
    assert _steady._chance(values) == pytest.approx(stats.kendalltau(places, values, method="exact").pvalue)
    assert _steady._slope(values) == pytest.approx(stats.theilslopes(values, places).slope)
