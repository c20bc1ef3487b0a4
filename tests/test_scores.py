"""Scores, calibration and intervals, against scikit-learn, SciPy and numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

from edgekit.device.file import LimitsSection
from edgekit.report import scoring
from edgekit.report.formats import html, markdown
from edgekit.scores import Difference
from edgekit.train.metrics import calibration, score
from edgekit.types import TORCH_FP32
from edgekit.verdict import intervals
from edgekit.verdict.rule import decide
from tests.report_sample import report


def logits_for(predicted: list[int], classes: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(predicted), classes).float()


@settings(deadline=None)
@given(st.data(), st.integers(2, 6), st.integers(1, 60))
def test_score_agrees_with_scikit_learn(data: st.DataObject, classes: int, images: int) -> None:
    vector = st.lists(st.integers(0, classes - 1), min_size=images, max_size=images)
    labels, predicted = data.draw(vector), data.draw(vector)
    found = score(logits_for(predicted, classes), labels, [str(label) for label in range(classes)], "val")
    every = list(range(classes))
    scores = precision_recall_fscore_support(labels, predicted, labels=every, zero_division=0)
    ours = [(entry.precision, entry.recall, entry.f1, entry.images) for entry in found.per_class]
    np.testing.assert_allclose(np.array(ours).T, np.array(scores), atol=1e-12)
    macro = precision_recall_fscore_support(labels, predicted, labels=every, zero_division=0, average="macro")
    np.testing.assert_allclose((found.precision, found.recall, found.f1), macro[:3], atol=1e-12)
    micro = precision_recall_fscore_support(labels, predicted, labels=every, zero_division=0, average="micro")
    np.testing.assert_allclose((found.accuracy,) * 3, micro[:3], atol=1e-12)
    assert found.accuracy == pytest.approx(accuracy_score(labels, predicted))
    assert np.array_equal(found.confusion, confusion_matrix(labels, predicted, labels=every))
    assert found.images == images
    for name, value in (("accuracy", found.accuracy), ("precision", found.precision), ("f1", found.f1)):
        low, high = found.intervals[name]
        assert 0 <= low <= high <= 1
        assert name != "accuracy" or low <= value <= high


@pytest.mark.parametrize(("classes", "k"), [(3, 2), (10, 2), (11, 5)])
def test_top_k_agrees_with_scikit_learn(classes: int, k: int) -> None:
    random = np.random.default_rng(0)
    values, labels = random.normal(size=(80, classes)).astype(np.float32), random.integers(0, classes, 80)
    found = score(values, labels, [str(each) for each in range(classes)], "test").near
    assert found is not None
    assert found[0] == k
    assert found[1] == pytest.approx(top_k_accuracy_score(labels, values, k=k, labels=range(classes)))


def test_two_classes_have_no_top_k_and_one_logit_is_a_sigmoid() -> None:
    two = score(np.array([[0.0, 2.0], [0.0, -1.0]], np.float32), [1, 1], ["no", "yes"], "test")
    one = score(np.array([[2.0], [-1.0]], np.float32), [1, 1], ["no", "yes"], "test")
    assert two.near is None
    assert one == two


def test_calibration_error_is_that_of_a_worked_example() -> None:
    """Three images at 90 %, two of them right, in one bin, and one at 60 %, right, in another."""
    chances = np.array([[0.9, 0.1], [0.1, 0.9], [0.9, 0.1], [0.6, 0.4]])
    found = calibration(torch.tensor(np.log(chances)), np.array([0, 1, 1, 0]))
    assert found is not None
    assert [each.images for each in found.bins] == [1, 3]
    assert [each.confidence for each in found.bins] == pytest.approx([0.6, 0.9])
    assert [each.accuracy for each in found.bins] == pytest.approx([1, 2 / 3])
    assert found.error == pytest.approx(1 / 4 * 0.4 + 3 / 4 * (0.9 - 2 / 3))


def test_calibration_of_outputs_that_are_not_numbers_is_unknown() -> None:
    assert calibration(torch.tensor([[float("nan"), 0.0]]), np.array([0])) is None


@given(st.integers(0, 40), st.integers(1, 40))
def test_interval_of_a_share_is_wilsons(hits: int, more: int) -> None:
    trials = hits + more
    expected = binomtest(hits, trials).proportion_ci(method="wilson")
    assert intervals.share(hits, trials) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_interval_of_f1_is_that_of_images_drawn_again() -> None:
    random = np.random.default_rng(3)
    labels = random.integers(0, 3, 150)
    predicted = np.where(random.random(150) < 0.7, labels, random.integers(0, 3, 150))
    drawn = (random.integers(0, 150, 150) for _ in range(1000))
    expected = np.quantile(
        [f1_score(labels[each], predicted[each], average="macro", zero_division=0) for each in drawn], (0.025, 0.975)
    )
    confusion = confusion_matrix(labels, predicted, labels=range(3))
    assert intervals.macro(confusion)["f1"] == pytest.approx(tuple(expected), abs=0.015)


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        (None, "loses 0.3 points of top-1 (1 allowed)"),
        (
            Difference(0.3, -0.4, 1.0),
            "loses 0.3 points of top-1, which may be chance (95 % interval -0.4 to 1, 1 allowed)",
        ),
        (Difference(0.3, 0.1, 0.5), "loses 0.3 points of top-1 (95 % interval 0.1 to 0.5, 1 allowed)"),
    ],
)
def test_worse_is_said_only_where_the_interval_says_so(lost: Difference | None, said: str) -> None:
    sample = report()
    rows = [
        replace(
            row, top1=0.9 if row.artifact == TORCH_FP32 else 0.897, lost=None if row.artifact == TORCH_FP32 else lost
        )
        for row in sample.accuracy
    ]
    timings = [each for each in sample.latency if each.device == "host"]
    verdict = decide("host", sample.artifacts, rows, timings, LimitsSection(), 1.0)
    assert said in verdict.reason


def test_the_report_shows_intervals_and_calibration() -> None:
    random = np.random.default_rng(0)
    sample, names = report(), report().data
    assert names is not None
    labels = random.integers(0, 6, 200)
    values = random.normal(size=(200, 6)).astype(np.float32) + 2 * np.eye(6, dtype=np.float32)[labels]
    scores = score(values, labels, names.labels, "test")
    clear, chance = Difference(2.0, 0.5, 3.5), Difference(0.1, -1.0, 1.2)
    rows = tuple(
        replace(row, metrics=scores, lost=None)
        if row.artifact == TORCH_FP32
        else replace(row, metrics=scores, lost=clear if "onnx" in row.artifact else chance)
        for row in sample.accuracy
    )
    sample = replace(sample, accuracy=rows)
    page = str(scoring.section(sample))
    assert "\N{MINUS SIGN}2.00 (\N{MINUS SIGN}3.50 to \N{MINUS SIGN}0.50)" in page
    assert page.count(">worse<") == sum("onnx" in row.artifact for row in rows if row.split == "test")
    assert scores.calibration is not None
    assert f"expected calibration error is {100 * scores.calibration.error:.1f} %" in page
    assert "top-2" in page
    assert page in html.render(sample)
    assert "against fp32 (95 % interval)" in markdown.render(replace(sample, latency=()))
