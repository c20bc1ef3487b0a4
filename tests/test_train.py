"""The training loop, its parts, and what survives a kill."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from torch import nn

from edgekit import checkpoint_file, models
from edgekit.config.recipe import Recipe
from edgekit.config.train_section import TrainSection
from edgekit.console import Console
from edgekit.data.transforms import evaluate
from edgekit.errors import InputError, Shortfall
from edgekit.train import _head
from edgekit.train._state import LAST
from edgekit.train.loop import _patience_is_over, train
from edgekit.train.optim import optimizer, set_rates
from edgekit.train.schedules import cosine
from edgekit.types import Checkpoint, Epoch, Index, Split
from tests import support, warm
from tests.colours import make_recipe, write_images


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("colours")
    write_images(path)
    return path


@pytest.fixture(scope="module")
def index(folder: Path) -> Index:
    return write_images(folder)


Fit = Callable[..., Checkpoint]


@pytest.fixture
def fit(folder: Path, index: Index, tmp_path: Path) -> Fit:
    def run(recipe: Recipe, data: Index = index, work: Path = tmp_path) -> Checkpoint:
        return train(recipe, data, folder, folder, work, Console(quiet=True))

    return run


def without(index: Index, *splits: Split) -> Index:
    return dataclasses.replace(index, samples=tuple(s for s in index.samples if s.split not in splits))


# Parts ---------------------------------------------------------------------------------------------


@given(st.integers(1, 500), st.floats(0, 0.9))
def test_factor_rises_to_one_then_falls_towards_zero(total: int, warmup: float) -> None:
    shares = [cosine.factor(TrainSection(warmup=warmup), step, total) for step in range(total)]
    top = shares.index(max(shares))
    assert all(0 < share <= 1 for share in shares)
    assert shares[: top + 1] == sorted(shares[: top + 1])
    assert shares[top:] == sorted(shares[top:], reverse=True)
    assert round(warmup * total) in (top, total)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_optimizer_holds_each_weight_once_and_spares_norms_and_biases(kind: str) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    section = TrainSection(optimizer=kind, lr=0.1, head_lr=0.5, weight_decay=0.3)
    solver = optimizer(module, section)
    settings = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in solver.param_groups
        for parameter in group["params"]
    }
    assert sum(len(group["params"]) for group in solver.param_groups) == len(list(module.parameters())) == len(settings)
    found = {name: settings[id(parameter)] for name, parameter in module.named_parameters()}
    assert found == {
        "0.weight": (0.1, 0.3), "0.bias": (0.1, 0.0),
        "1.weight": (0.1, 0.0), "1.bias": (0.1, 0.0),
        "3.weight": (0.5, 0.3), "3.bias": (0.5, 0.0),
    }  # fmt: skip
    set_rates(solver, 0.5)
    assert {group["lr"] for group in solver.param_groups} == {0.05, 0.25}


def test_head_fit_finds_the_optimum_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 200)
    inputs = (random.normal(size=(200, 6)) + np.eye(3, 6)[labels]) * [1, 10, 100, 1e-3, 1, 1] + 5
    spread, mean = inputs.std(0, ddof=1), inputs.mean(0)
    oracle = LogisticRegression(C=1 / (2 * 200 * _head._RIDGE), max_iter=10_000, tol=1e-10)
    expected = oracle.fit((inputs - mean) / spread, labels).decision_function((inputs - mean) / spread)
    head = nn.Linear(6, 3).double()
    _head.fit(head, torch.from_numpy(inputs), torch.from_numpy(labels), 200, 0.0)
    found = head(torch.from_numpy(inputs)).detach().numpy()
    centred = found - found.mean(1, keepdims=True)
    np.testing.assert_allclose(centred, expected - expected.mean(1, keepdims=True), atol=2e-3)


def test_patience_is_over_when_loss_stands_still() -> None:
    def history(*losses: float) -> list[Epoch]:
        return [Epoch(number, "all", 0.1, 1.0, 0.5, loss, 0.5, 1.0) for number, loss in enumerate(losses)]

    assert _patience_is_over(history(3, 2, 2.5, 2), 2)
    assert not _patience_is_over(history(3, 2, 2.5, 1.9), 2)
    assert not _patience_is_over(history(1, 2), 2)
    assert not _patience_is_over(history(1, 2, 3, 4), None)


# The loop ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "section",
    [
        {},
        {"optimizer": "sgd", "lr": 0.1, "label_smoothing": 0.1},
        {"frozen": 20, "epochs": 2, "ema": 0.9, "batch_norm": "frozen", "augment": ["flip", "color_jitter"]},
    ],
)
def test_train_learns_and_reports_what_a_plain_loop_measures(
    section: dict[str, Any], fit: Fit, folder: Path, index: Index, tmp_path: Path
) -> None:
    made = fit(make_recipe(**section))
    module, read = models.load(tmp_path)
    assert read == made
    assert made.trained
    assert not (tmp_path / LAST).exists()
    by_split = {metrics.split: metrics for metrics in made.metrics}
    assert set(by_split) == {"val", "test"}
    hits = 0
    for sample in index.split("test"):
        with Image.open(folder / sample.path) as image, torch.no_grad():
            logits = module(torch.from_numpy(evaluate(image, made.input))[None])
        hits += int(logits.argmax()) == sample.label
    assert by_split["test"].accuracy == pytest.approx(hits / 30)
    assert by_split["test"].accuracy >= 0.9
    best = max(epoch.val_accuracy or 0 for epoch in made.history)
    assert by_split["val"].accuracy == pytest.approx(best)


def test_train_keeps_running_statistics_when_batch_norm_is_frozen(fit: Fit, tmp_path: Path) -> None:
    fit(make_recipe(batch_norm="frozen", epochs=1))
    state = load_file(tmp_path / models.WEIGHTS)
    assert torch.equal(state["1.running_mean"], torch.zeros(8))
    assert torch.equal(state["1.running_var"], torch.ones(8))
    assert not torch.equal(state["1.weight"], torch.ones(8))


def test_train_keeps_last_weights_when_there_is_no_validation_split(fit: Fit, index: Index) -> None:
    made = fit(make_recipe(patience=1), without(index, "val"))
    assert len(made.history) == 4
    assert {(epoch.val_loss, epoch.val_accuracy) for epoch in made.history} == {(None, None)}
    assert [metrics.split for metrics in made.metrics] == ["test"]


def test_train_stops_early_when_validation_does_not_improve(fit: Fit) -> None:
    made = fit(make_recipe(lr=1e-30, epochs=30, patience=2, batch_norm="frozen"))
    assert len(made.history) == 3


def test_train_writes_given_weights_when_recipe_does_not_train(
    folder: Path, index: Index, fit: Fit, tmp_path: Path
) -> None:
    fit(make_recipe(epochs=1))
    given = tmp_path / "given.safetensors"
    os.replace(tmp_path / models.WEIGHTS, given)
    plain = make_recipe()
    changed = plain.model.model_copy(update={"weights": str(given)})
    made = fit(plain.model_copy(update={"model": changed, "train": None}), without(index, "val"))
    assert not made.trained
    assert made.history == ()
    assert [metrics.split for metrics in made.metrics] == ["test"]
    assert (tmp_path / models.WEIGHTS).read_bytes() == given.read_bytes()


def test_train_refuses_empty_training_split(fit: Fit, index: Index) -> None:
    with pytest.raises(InputError, match="0 images"):
        fit(make_recipe(), without(index, "train"))


def test_train_keeps_best_epoch_and_leaves_test_alone_when_loss_is_not_a_number(
    fit: Fit, index: Index, tmp_path: Path
) -> None:
    gone = tuple(dataclasses.replace(s, path="gone") if s.split == "test" else s for s in index.samples)
    with pytest.raises(Shortfall, match=r"epoch 1, step \d+ of 8.*weights of epoch 0 are kept.*lower train\.lr"):
        fit(make_recipe(lr=1e30, frozen=5), dataclasses.replace(index, samples=gone))
    _, kept = models.load(tmp_path)
    assert [metrics.split for metrics in kept.metrics] == ["val"]
    assert kept.metrics[0].accuracy == pytest.approx(kept.history[0].val_accuracy)


def test_train_says_so_when_no_epoch_was_finished(fit: Fit, tmp_path: Path) -> None:
    with pytest.raises(Shortfall, match="no epoch was finished"):
        fit(make_recipe(lr=1e30))
    assert not (tmp_path / checkpoint_file.NAME).exists()


def test_train_raises_os_error_and_leaves_no_half_file_when_disk_is_full(fit: Fit, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(OSError, match="File too large"):
            fit(make_recipe(epochs=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


# A kill --------------------------------------------------------------------------------------------

KILLED: dict[str, Any] = {
    "epochs": 12, "frozen": 5, "ema": 0.9, "label_smoothing": 0.1, "augment": ["random_crop", "flip", "color_jitter"],
}  # fmt: skip
MORE_STATE = {
    "optimizer": "rmsprop", "lr": 1e-3, "schedule": "plateau", "plateau": 0, "unfreeze": 3, "batch_norm": "train",
    "precision": "bf16", "sampler": "balanced", "mixup": 0.2, "cutmix": 1.0, "accumulate": 2, "clip": 1.0,
}  # fmt: skip
CHILD = """
import json, sys, torch
from pathlib import Path
from tests.colours import make_recipe, write_images
from edgekit.console import Console
from edgekit.train.loop import train
torch.set_num_threads(1)
work = Path(sys.argv[1])
folder = work / "images"
folder.mkdir(exist_ok=True)
train(make_recipe(**json.loads(sys.argv[2])), write_images(folder), folder, folder, work, Console())
"""


def start(work: Path, settings: dict[str, Any]) -> warm.Child:
    work.mkdir(exist_ok=True)
    return warm.Child(["-c", CHILD, str(work), json.dumps(settings)], support.environment())


def finish(child: warm.Child) -> str:
    answer = child.wait()
    assert answer.returncode == 0, answer.stderr
    return answer.stderr


@pytest.mark.parametrize("more", [{}, MORE_STATE], ids=["", "more state"])
def test_train_ends_in_same_bytes_when_killed_and_started_again(more: dict[str, Any], tmp_path: Path) -> None:
    settings = {**KILLED, **more}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    unbroken = start(whole, settings)
    for word in ("head", "epoch  3/12"):
        child = start(broken, settings)
        while word not in child.stderr.read_text() or not (broken / LAST).exists():
            assert child.running
            time.sleep(0.002)
        time.sleep(0.02)  # somewhere in the next epoch
        child.kill()
        assert child.wait().returncode == -signal.SIGKILL
        assert (broken / LAST).exists()
    assert "resuming after epoch" in finish(start(broken, settings))
    finish(unbroken)
    assert (whole / models.WEIGHTS).read_bytes() == (broken / models.WEIGHTS).read_bytes()
    ours, theirs = (models.load(path)[1] for path in (whole, broken))
    strip = [[dataclasses.replace(epoch, seconds=0) for epoch in each.history] for each in (ours, theirs)]
    assert strip[0] == strip[1]
    assert ours.metrics == theirs.metrics


def test_train_starts_anew_when_last_state_is_of_another_recipe(fit: Fit, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(Shortfall):
        fit(make_recipe(lr=1e30, frozen=5))
    assert (tmp_path / LAST).exists()
    made = fit(make_recipe(frozen=5))
    fresh = fit(make_recipe(frozen=5), work=other)
    assert len(made.history) == len(fresh.history)
    assert (tmp_path / models.WEIGHTS).read_bytes() == (other / models.WEIGHTS).read_bytes()
