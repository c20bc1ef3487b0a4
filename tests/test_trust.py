"""Warnings of scores that mean nothing, against SciPy's tests and by counting."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.verdict import trust


@settings(deadline=None)
@given(st.integers(1, 2000), st.floats(0, 1), st.floats(0.001, 0.999))
def test_at_least_is_the_tail_of_the_binomial_distribution(trials: int, part: float, share: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    hits = round(part * trials)
    wanted = stats.binomtest(hits, trials, share, alternative="greater").pvalue
    assert trust.at_least(hits, trials, share) == pytest.approx(wanted, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(
    ("top1", "support", "warned"),
    [
        (1 / 3, [3, 3, 3], True),  # three classes, a third right
        (5 / 9, [3, 3, 3], True),  # as often as one time in seven by luck
        (8 / 9, [3, 3, 3], False),
        (0.34, [1000, 1000, 1000], True),
        (0.38, [1000, 1000, 1000], False),
        (0.9, [90, 10], True),  # what naming the larger class gives
        (0.97, [90, 10], False),
        (0.0, [5, 5], True),
        (0.02, [1] * 400, False),  # of 400 classes
        (1.0, [7], True),
        (1.0, [7, 0], True),
        (0.0, [], False),
    ],
)
def test_chance_warns_of_guessing(top1: float, support: list[int], warned: bool) -> None:
    assert bool(trust.chance(top1, support)) == warned


@pytest.mark.parametrize(("images", "max_drop"), [(9, 1.0), (99, 1.0), (100, 1.0), (199, 0.5), (200, 0.5), (33, 3.0)])
def test_resolution_names_the_images_that_it_takes(images: int, max_drop: float) -> None:
    text = trust.resolution(images, max_drop)
    assert bool(text) == (100 / images > max_drop)
    if text:
        one, shown = (int(word) for word in text.split() if word.isdigit() and word != str(images))
        assert 100 / one <= max_drop < 100 / (one - 1)
        assert (1 - max_drop / 100) ** shown <= 0.05 < (1 - max_drop / 100) ** (shown - 1)
        assert math.isclose(float(text.split(" points")[0].split()[-1]), 100 / images, rel_tol=0.01)


@pytest.mark.parametrize(("images", "max_drop"), [(0, 1.0), (9, 0.0), (9, 100.0), (9, 500.0)])
def test_resolution_has_nothing_to_say_where_no_size_would_help(images: int, max_drop: float) -> None:
    assert trust.resolution(images, max_drop) == ""
