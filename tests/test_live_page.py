"""The page on which a training can be watched, in a real browser, which loads it again by itself."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edgekit.config import recipe_file, shipped
from edgekit.console import Console
from edgekit.errors import Shortfall
from edgekit.pipeline import run as pipeline
from edgekit.report import live
from edgekit.types import Epoch
from tests.browser import Browser

STATE = "document.querySelector('h1 + p')?.textContent"
NOW = datetime.now(UTC)
ROW = {"epoch": "1", "phase": "all", "lr": "0.1", "train_loss": "2.5", "train_accuracy": "0.25", "seconds": "90"}


def test_an_open_browser_follows_a_training(browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "REFRESH", 1)
    page = tmp_path / "run" / "training.html"

    def asked(question: str) -> Any:
        try:
            return browser.run(question)
        except AssertionError:  # the page is just being loaded again
            return None

    def follow(wanted: str) -> None:
        end = time.monotonic() + 30
        while (shown := asked(STATE)) != wanted:
            assert time.monotonic() < end, shown
            time.sleep(0.1)

    def watch(epoch: Epoch) -> None:
        if epoch.epoch == 1:
            browser.open(page, 1200)
        if epoch.epoch < 3:
            follow(f"training: epoch {epoch.epoch} of 3")

    recipe = recipe_file.load(shipped.find("recipes", "digits"), ["train.epochs=3"])
    job = pipeline.Job(recipe, tmp_path, tmp_path / "run", {}, after_epoch=watch)
    pipeline.run(job, Console(quiet=True), "train")
    follow("finished: epoch 3 of 3")
    assert browser.run("document.querySelector('meta[http-equiv=refresh]')") is None
    assert browser.run("document.querySelectorAll('figure').length") == 8  # no GPU
    assert browser.run("[...document.querySelectorAll('.curve.val')].length") == 2


def test_numbers_that_are_missing_or_not_finite_leave_their_chart_out() -> None:
    shown = live.render(
        "a<b>", [{**ROW, "train_loss": "nan", "gradient_norm": "inf", "val_accuracy": ""}], 4, True, NOW
    )
    assert "a&lt;b&gt;" in shown
    assert "No finite loss was recorded." in shown
    assert "Norm of the gradients" not in shown
    assert "Learning rate" in shown
    assert "best validation accuracy" not in shown
    assert "<dd>4 min</dd>" in shown  # three epochs of 90 s, rounded to even


def test_a_training_that_ends_early_says_so_and_is_not_loaded_again(tmp_path: Path) -> None:
    def stop(epoch: Epoch) -> None:
        raise Shortfall("enough")

    recipe = recipe_file.load(shipped.find("recipes", "digits"), ["train.epochs=3"])
    job = pipeline.Job(recipe, tmp_path, tmp_path / "run", {}, after_epoch=stop)
    with pytest.raises(Shortfall, match="enough"):
        pipeline.run(job, Console(quiet=True), "train")
    page = (tmp_path / "run" / "training.html").read_text()
    assert "stopped: epoch 1 of 3" in page
    assert "http-equiv" not in page


def test_a_finished_page_is_not_loaded_again() -> None:
    assert f'http-equiv="refresh" content="{live.REFRESH}"' in live.render("a", [ROW], 2, True, NOW)
    assert "refresh" not in live.render("a", [ROW], 2, False, NOW).partition("<body>")[0].partition("<style>")[0]


@pytest.mark.parametrize(
    ("ago", "seconds", "shown"),
    [
        (200, "90", "training: epoch 1 of 2"),
        (300, "90", "no news since {}, after epoch 1 of 2: it hangs, or was stopped"),
        (30, "1", "training: epoch 1 of 2"),
        (90, "1", "no news since {}, after epoch 1 of 2: it hangs, or was stopped"),
    ],
)
def test_the_page_of_a_training_that_was_killed_says_so(
    ago: int, seconds: str, shown: str, browser: Browser, tmp_path: Path
) -> None:
    then = datetime.now(UTC) - timedelta(seconds=ago)
    page = tmp_path / "training.html"
    page.write_text(live.render("a", [{**ROW, "seconds": seconds}], 2, True, then))
    browser.open(page, 1200)
    assert browser.run(STATE) == shown.format(then.strftime("%Y-%m-%d %H:%M UTC"))
