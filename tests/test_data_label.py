"""edgekit data label: what the network of a run says about a folder, as a table that a recipe takes."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from edgekit import models
from edgekit.cli.main import cli
from edgekit.config.recipe import DataSection
from edgekit.console import Console
from edgekit.data import index_file
from edgekit.data.dataset import ImageSet
from tests.conftest import TinyRun


def call(*words: str | float | Path) -> Result:
    return CliRunner().invoke(cli, ["data", "label", *map(str, words), "--quiet"])


@pytest.fixture
def folder(tiny: TinyRun, tmp_path: Path) -> Path:
    """Forty digits of the test split in a folder of their own, and a file that is no image."""
    index, root = index_file.load_rooted(tiny.path / "1-data")
    for sample in index.split("test")[:40]:
        target = tmp_path / "unlabelled" / sample.path.replace("/", "-")
        target.parent.mkdir(exist_ok=True)
        shutil.copy(root / sample.path, target)
    (tmp_path / "unlabelled/broken.png").write_text("no image")
    return tmp_path / "unlabelled"


def test_the_table_holds_what_the_network_is_sure_of(tiny: TinyRun, folder: Path, tmp_path: Path) -> None:
    index, root = index_file.load_rooted(tiny.path / "1-data")
    module, checkpoint = models.load(tiny.path / "2-train")
    images = ImageSet(index, root, "test", checkpoint.input)
    with torch.no_grad():
        direct = module(torch.stack([images[place][0] for place in range(40)])).softmax(1)
    expected = {
        f"../unlabelled/{sample.path.replace('/', '-')}": (index.labels[int(row.argmax())], float(row.max()))
        for sample, row in zip(index.split("test")[:40], direct, strict=True)
    }
    least = sorted(sure for _, sure in expected.values())[20]
    answer = call(tiny.path, folder, "--min-confidence", least - 1e-5, "--out", tmp_path / "t/pseudo.csv", "--json")
    assert answer.exit_code == 0, answer.output
    with (tmp_path / "t/pseudo.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["path"]: row["label"] for row in rows} == {
        path: label for path, (label, sure) in expected.items() if sure >= least
    }
    assert [float(row["confidence"]) for row in rows] == pytest.approx(
        [expected[row["path"]][1] for row in rows], abs=1e-4
    )
    said = json.loads(answer.stdout)
    assert (said["images"], sum(said["counts"].values()), said["unreadable"]) == (40, len(rows), ["broken.png"])
    assert 0 < said["sure"] <= 1
    data = DataSection(source="digits", extra="pseudo.csv", seed=1)
    again = index_file.build(data, tmp_path / "t", tmp_path / "work", Console(quiet=True))
    assert {finding.kind for finding in again.findings} <= {"leak", "duplicate"}  # digits that the data has already


def test_confidence_on_validation_images_is_counted(tiny: TinyRun, folder: Path, tmp_path: Path) -> None:
    answer = call(tiny.path, folder, "--min-confidence", 0, "--out", tmp_path / "all.csv", "--json")
    said = json.loads(answer.stdout)
    assert said["sure"] == 1
    _, checkpoint = models.load(tiny.path / "2-train")
    accuracy = next(metrics.accuracy for metrics in checkpoint.metrics if metrics.split == "val")
    assert said["right"] == pytest.approx(accuracy)
    text = call(tiny.path, folder, "--min-confidence", 0, "--out", tmp_path / "all.csv").output
    assert "40 of 40 images are sure enough" in text
    assert "of the validation images, 100.0% are as sure" in text
    assert "files that cannot be read: 1 (broken.png)" in text


def test_what_cannot_be_used_is_refused_in_one_line(tiny: TinyRun, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/a.png").write_text("no image")
    shutil.copytree(tiny.path, tmp_path / "untrained", ignore=shutil.ignore_patterns("2-train"))
    for run, where, said in (
        (tmp_path / "empty", folder, "is not a run directory"),
        (tiny.path, tmp_path / "none", "no such folder"),
        (tiny.path, tmp_path / "empty", "there are no images in it"),
        (tiny.path, tmp_path / "bad", "no file in it is an image"),
        (tmp_path / "untrained", folder, "there is no trained network in it; run edgekit train"),
    ):
        answer = call(run, where, "--out", tmp_path / "out.csv")
        assert answer.exit_code == 2
        assert said in answer.stderr
        assert not (tmp_path / "out.csv").exists()
