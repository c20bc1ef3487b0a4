"""The data stage as a whole: build, save, load, fingerprint; on made-up and on real images."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.config.recipe import DataSection
from edgekit.console import Console
from edgekit.data import index_file
from edgekit.errors import InputError
from edgekit.types import Finding, Index, Sample

QUIET = Console(quiet=True)


def section(source: str, **more: object) -> DataSection:
    return DataSection.model_validate({"source": source, **more})


def folder(root: Path, count: int = 10) -> Path:
    for number in range(count):
        for label in ("cat", "dög"):
            (root / label).mkdir(parents=True, exist_ok=True)
            seed = 2 * number + (label == "cat")
            pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / label / f"{number}.png")
    return root


def test_build_lists_cleans_and_splits(tmp_path: Path) -> None:
    root = folder(tmp_path / "images")
    (root / "cat/copy.png").write_bytes((root / "cat/0.png").read_bytes())
    (root / "cat/text.jpg").write_text("no image")
    data = section("image_folder", path="images", val=0.2, test=0.2, clean={"unreadable": "drop"})
    index = index_file.build(data, tmp_path, tmp_path / "work", QUIET)
    assert index_file.root_of(index, tmp_path / "work") == root
    assert index.labels == ("cat", "dög")
    assert [sample.path for sample in index.samples] == sorted(sample.path for sample in index.samples)
    assert Counter((sample.label, sample.split) for sample in index.samples) == {
        (label, split): count for label in (0, 1) for split, count in (("train", 6), ("val", 2), ("test", 2))
    }
    for sample in index.samples:
        assert sample.sha256 == hashlib.sha256((root / sample.path).read_bytes()).hexdigest()
    assert index.findings == (
        Finding("unreadable", "cat/text.jpg", "not an image of a known format", "drop"),
        Finding("duplicate", "cat/copy.png", "same pixels as cat/0.png", "drop"),
    )


def test_build_refers_to_its_own_images_relatively(tmp_path: Path) -> None:
    index = index_file.build(section("digits"), tmp_path, tmp_path, QUIET)
    assert index.root == "images"
    assert Counter(sample.split for sample in index.samples) == {"train": 1257, "val": 270, "test": 270}
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert all((index_file.root_of(index, moved) / sample.path).is_file() for sample in index.samples)


def test_build_names_the_class_when_cleaning_empties_it(tmp_path: Path) -> None:
    root = folder(tmp_path / "images", 3)
    (root / "eel").mkdir()
    (root / "eel/1.jpg").touch()
    with pytest.raises(InputError, match='no image of class "eel"'):
        index_file.build(
            section("image_folder", path="images", clean={"unreadable": "drop"}), tmp_path, tmp_path / "work", QUIET
        )


def test_build_says_which_classes_are_not_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder(tmp_path / "images/train", 4)
    for split, seed in (("val", 90), ("test", 91)):
        file = tmp_path / "images" / split / "eel/1.png"
        file.parent.mkdir(parents=True)
        Image.new("RGB", (8, 8), (seed, 0, 0)).save(file)
    index_file.build(section("image_folder", path="images"), tmp_path, tmp_path / "work", Console())
    assert "data: 1 of 3 classes have no training image: eel" in capsys.readouterr().err


def test_load_returns_what_save_wrote(tmp_path: Path) -> None:
    index = Index(
        "/images",
        ("cat", "dög"),
        (Sample("a b/ü.jpg", 1, "val", "00"),),
        (Finding("leak", "x.jpg", "in train", "drop"),),
    )
    index_file.save(index, tmp_path)
    assert index_file.load(tmp_path) == index


def test_load_says_what_is_wrong_with_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        index_file.load(tmp_path)
    (tmp_path / "index.json").write_text('{"root": "/"')
    with pytest.raises(InputError, match="damaged"):
        index_file.load(tmp_path)


def test_fingerprint_changes_with_the_images(tmp_path: Path) -> None:
    root = folder(tmp_path / "images")
    data = section("image_folder", path="images")
    seen = [index_file.fingerprint(data, tmp_path)]
    assert index_file.fingerprint(data, tmp_path) == seen[0]
    (root / "cat/new.png").write_bytes((root / "cat/0.png").read_bytes())
    seen.append(index_file.fingerprint(data, tmp_path))
    (root / "cat/new.png").write_bytes(b"longer" + (root / "cat/0.png").read_bytes())
    seen.append(index_file.fingerprint(data, tmp_path))
    os.utime(root / "cat/0.png", ns=(1, 1))
    seen.append(index_file.fingerprint(data, tmp_path))
    (root / "cat/new.png").unlink()
    seen.append(index_file.fingerprint(data, tmp_path))
    assert len(set(seen)) == 5
    assert index_file.fingerprint(section("digits"), tmp_path) not in seen


def test_fingerprint_changes_with_the_table_and_the_labels(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "labels.csv").write_text("file,class\ncat/0.png,0\n")
    (tmp_path / "names.txt").write_text("cat\n")
    data = section("csv_labels", path="labels.csv", labels="names.txt")
    seen = [index_file.fingerprint(data, tmp_path)]
    (tmp_path / "labels.csv").write_text("file,class\ncat/1.png,0\n")
    seen.append(index_file.fingerprint(data, tmp_path))
    (tmp_path / "names.txt").write_text("cats\n")
    seen.append(index_file.fingerprint(data, tmp_path))
    os.utime(tmp_path / "cat/1.png", ns=(1, 1))
    seen.append(index_file.fingerprint(data, tmp_path))
    assert len(set(seen)) == 4


@pytest.mark.parametrize("source", ["image_folder", "csv_labels", "digits", "torchvision"])
def test_fingerprint_loads_no_heavy_package(tmp_path: Path, source: str) -> None:
    folder(tmp_path / "images")
    (tmp_path / "labels.csv").write_text("file,class\nimages/cat/0.png,0\n")
    path = {"image_folder": "images", "csv_labels": "labels.csv"}.get(source)
    code = (
        "import sys; from pathlib import Path\n"
        "from edgekit.data import index_file; from edgekit.config.recipe import DataSection\n"
        f"section = DataSection(source={source!r}, path={path!r}, name='MNIST')\n"
        f"index_file.fingerprint(section, Path({str(tmp_path)!r}))\n"
        "print([name for name in ('torch', 'torchvision', 'PIL', 'sklearn') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_build_reads_trashnet(shared: Path, tmp_path: Path) -> None:
    index = index_file.build(section("image_folder", path=str(shared / "data/trashnet")), tmp_path, tmp_path, QUIET)
    assert index.labels == ("cardboard", "glass", "metal", "paper", "plastic", "trash")
    assert Counter(sample.split for sample in index.samples) == {"train": 1790, "val": 328, "test": 403}


def test_build_reads_imagenet500(shared: Path, tmp_path: Path) -> None:
    data = section(
        "csv_labels",
        path=str(shared / "data/imagenet500/labels.csv"),
        labels=str(shared / "models/imagenet_labels.txt"),
        label_offset=1,
        split="strided",
        val=0.0,
        test=0.8,
    )
    index = index_file.build(data, tmp_path, tmp_path, QUIET)
    assert Counter(sample.split for sample in index.samples) == {"train": 100, "test": 400}
    assert [sample.split for sample in index.samples[:6]] == ["train", *["test"] * 4, "train"]
    assert len(index.labels) == 1001
    # The file's name holds the class's name, which the offset must meet.
    for sample in index.samples[::7]:
        words = index.labels[sample.label].lower().replace(",", " ").replace("-", " ").split()
        assert sample.path.split("_")[1].removesuffix(".jpg").lower().split("-")[0] in words, sample
