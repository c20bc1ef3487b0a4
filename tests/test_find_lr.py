"""The search for a learning rate: a quadratic whose edge is known, and real small networks."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edgekit.cli.main import cli
from edgekit.errors import Shortfall
from edgekit.find_lr.finder import judge

RATES = [float(rate) for rate in np.geomspace(1e-6, 10, 100)]
RECIPE = """
[model]
name    = "net.py:build"
weights = "none"
[data]
source = "digits"
input  = 16
[train]
epochs    = 3
batch     = 64
optimizer = "sgd"
momentum  = 0.0
"""
NET = """
from torch import nn

def build(num_classes):
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(392, num_classes))
"""


@pytest.mark.parametrize("curvature", [1.0, 10.0, 1000.0])
def test_gradient_descent_on_a_parabola_explodes_where_it_must(curvature: float) -> None:
    """Descent on ``curvature / 2 * x^2`` diverges from a rate of ``2 / curvature`` on, whatever the start."""
    place, losses = 100.0, list[float]()
    for rate in RATES:
        losses.append(curvature / 2 * place**2)
        place *= 1 - rate * curvature
        if losses[-1] > 1e3 * losses[0]:
            break
    found = judge("parabola", "sgd", 1, RATES, losses)
    assert 0.2 / curvature < found.lowest < 8 / curvature
    assert found.suggestion == pytest.approx(found.lowest / 10)
    assert found.steepest <= found.lowest
    assert found.fell > 0.9


def test_a_loss_that_never_falls_is_said() -> None:
    with pytest.raises(Shortfall, match="does not fall at any rate"):
        judge("rising", "sgd", 1, RATES, [float(number) for number in range(1, 50)])


def test_losses_that_are_no_numbers_are_left_out() -> None:
    falling = [10.0 - number / 10 for number in range(60)]
    found = judge("nan", "sgd", 1, RATES, [*falling, math.inf, math.nan])
    assert len(found.steps) == 60
    assert "exploded" in found.ended


def test_the_suggestion_trains_better_than_rates_far_from_it(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    recipe = tmp_path / "net.toml"
    recipe.write_text(RECIPE)
    out = tmp_path / "found"
    result = CliRunner().invoke(cli, ["find-lr", str(recipe), "--out", str(out), "--json", "--steps", "80"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found == json.loads((out / "find-lr.json").read_text())
    with (out / "find-lr.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(found["steps"])
    page = (out / "find-lr.html").read_text()
    assert f"suggested {found['suggestion']:.2g}" in page
    scores = {}
    for factor in (0.01, 1.0, 100.0):
        words = ["train", str(recipe), "--out", str(tmp_path / f"run{factor}"), "--json", "--quiet"]
        told = CliRunner().invoke(cli, [*words, "--set", f"train.lr={factor * found['suggestion']}"])
        metrics = json.loads(told.stdout)["metrics"] if not told.exit_code else []
        scores[factor] = next((one["top1"] for one in metrics if one["split"] == "val"), 0.0)
    assert scores[1.0] > scores[0.01] + 0.1, scores
    assert scores[1.0] > scores[100.0] + 0.1, scores


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--from", "1", "--to", "0.1"], "--from 1 must be less than --to 0.1"),
        (["--set", "train="], "has no [train] section"),
        (["--steps", "3"], "20<=x<=100000"),
        (["--from", "0"], "--from"),
    ],
)
def test_bad_input_is_one_line(words: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    recipe = tmp_path / "net.toml"
    recipe.write_text(RECIPE)
    result = CliRunner().invoke(cli, ["find-lr", str(recipe), "--out", str(tmp_path / "out"), *words])
    assert result.exit_code == 2
    assert said in result.stderr
    assert not (tmp_path / "out").exists()
