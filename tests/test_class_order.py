"""The order of the classes: how names are sorted, and what is said where given weights number them otherwise."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.readers.reader_image_folder import find_images_and_targets
from torch import nn
from torch.nn import functional
from torchvision.datasets import ImageFolder

from edgekit.config.recipe import DataSection, Recipe
from edgekit.config.toml import validate
from edgekit.console import Console
from edgekit.data import class_names, index_file
from edgekit.data.sources import csv_labels, image_folder
from edgekit.errors import InputError
from edgekit.train import class_order, loop
from edgekit.types import Checkpoint
from tests.support import complaint

NET = """
from torch import nn

def build(num_classes):
    pooled = nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*pooled, nn.Linear(16, num_classes))
"""
CLASSES = [str(number) for number in range(12)]
RECIPE = """
name = "patches"
[model]
name = "net.py:build"
weights = "{weights}"
[data]
source = "image_folder"
path = "patches"
input = 32
{more}
"""


def matrix(truth: Any, predicted: Any, size: int) -> Any:
    counts = np.zeros((size, size), int)
    np.add.at(counts, (truth, predicted), 1)
    return counts


@pytest.mark.parametrize(
    "names", [CLASSES, ["img9", "img10", "Img1", "b", "A", "c2x10", "c2x9", "c02"], ["n02", "n01", "n10"]]
)
def test_names_are_sorted_as_torchvision_and_timm_do(names: list[str], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "a.png")
    _, numbers = find_images_and_targets(str(tmp_path))
    for order, judge in (("text", ImageFolder(tmp_path).class_to_idx), ("natural", numbers), (None, None)):
        data = DataSection.model_validate({"source": "image_folder", "path": str(tmp_path), "order": order})
        listing = image_folder.listing(data, tmp_path, tmp_path)
        expected = judge if judge is not None else ImageFolder(tmp_path).class_to_idx
        assert {name: number for number, name in enumerate(listing.labels)} == expected
        assert {item.path.partition("/")[0]: item.label for item in listing.items} == expected


def test_csv_sorts_names_and_has_no_order_for_numbers(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    data = DataSection(source="csv_labels", path="list.csv", order="natural")
    (tmp_path / "list.csv").write_text("file,class\na.png,x10\nb.png,x9\n")
    assert csv_labels.listing(data, tmp_path, tmp_path).labels == ("x9", "x10")
    (tmp_path / "list.csv").write_text("file,class\na.png,10\nb.png,9\n")
    with pytest.raises(InputError, match=r'data.order = "natural": .* numbers its classes itself; remove it'):
        csv_labels.listing(data, tmp_path, tmp_path)


def test_order_in_words_names_the_other_one_where_there_is_one() -> None:
    folder, text = DataSection(source="image_folder", path="x"), class_names.sort(CLASSES, "text")
    assert class_names.described(folder, text) == (
        "12 classes: 0, 1, 10, 11, 2, 3, 4, 5, ..., 9 "
        '(sorted as text; data.order = "natural" gives 0, 1, 2, 3, ..., 11)'
    )
    assert class_names.described(folder, ("cat", "dog")) == "2 classes: cat, dog"
    for data in (DataSection(source="digits"), DataSection(source="csv_labels", path="x")):
        assert class_names.described(data, CLASSES) == "12 classes: 0, 1, 2, 3, 4, 5, 6, 7, ..., 11"


def test_section_takes_one_order() -> None:
    with pytest.raises(ValueError, match="not both"):
        DataSection(source="image_folder", path="x", labels="labels.txt", order="text")


@pytest.mark.parametrize("errors", [0.0, 0.2])
def test_permutation_is_found_from_few_images(errors: float) -> None:
    rng = np.random.default_rng(0)
    meaning = rng.permutation(12)  # the class that each output stands for
    truth = rng.integers(0, 12, 60)
    predicted = np.where(rng.random(60) < errors, rng.integers(0, 12, 60), np.argsort(meaning)[truth])
    found = class_order.explained(matrix(truth, predicted, 12), CLASSES, {"text": class_names.sort(CLASSES, "text")})
    assert found is not None
    assert found.word == ""
    assert found.names == tuple(CLASSES[number] for number in meaning)
    assert found.top1[0] < 0.2 < 0.7 < found.top1[1]


def test_two_classes_that_changed_places_are_found_and_the_rest_is_left_alone() -> None:
    truth = np.repeat(np.arange(5), 20)
    predicted = np.choose(truth, [0, 2, 1, 3, 4])
    found = class_order.explained(matrix(truth, predicted, 5), list("abcde"), {})
    assert found is not None
    assert found.names == tuple("acbde")
    assert found.top1 == (0.6, 1.0)


@pytest.mark.parametrize("classes", [2, 12, 100])
@pytest.mark.parametrize("top1", [0.0, 0.5, 0.9])
def test_errors_without_a_pattern_are_not_explained(classes: int, top1: float) -> None:
    """An assignment always fits the images it was found on; it has to hold on others."""
    names = [f"c{number}" for number in range(classes)]
    orders = {word: class_names.sort(names, word) for word in ("text", "natural")}
    for seed in range(5):
        rng = np.random.default_rng(seed)
        for images in (20, 300):
            truth = rng.integers(0, classes, images)
            predicted = np.where(rng.random(images) < top1, truth, rng.integers(0, classes, images))
            assert class_order.explained(matrix(truth, predicted, classes), orders["text"], orders) is None


def test_nothing_is_made_of_no_images() -> None:
    assert class_order.explained(np.zeros((3, 3), int), list("abc"), {}) is None
    assert class_order.check(DataSection(source="image_folder", path="x"), list("abc"), [], lambda: None) == ()


# With a real network -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders 0 to 11 of coloured patches; nets that another trainer made of them, with two orders of the classes."""
    base = tmp_path_factory.mktemp("patches")
    rng = np.random.default_rng(0)
    colours = [(red, green, blue) for red in (0, 120, 240) for green in (0, 240) for blue in (0, 240)]
    pixels = []
    for name, colour in zip(CLASSES, colours, strict=True):
        (base / "patches" / name).mkdir(parents=True)
        for number in range(5):
            image = np.clip(np.array(colour) + rng.normal(0, 8, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(image).save(base / "patches" / name / f"{number}.png")
            pixels.append(image)
    (base / "net.py").write_text(NET)
    scope: dict[str, Any] = {}
    exec(NET, scope)
    values = (torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    shuffled = ["7", "3", "11", "0", "9", "1", "5", "10", "2", "8", "4", "6"]
    for file, order in (("natural.pth", CLASSES), ("shuffled.pth", shuffled)):
        torch.manual_seed(0)
        net: nn.Module = scope["build"](12)
        optimizer = torch.optim.Adam(net.parameters(), 0.03)
        targets = torch.tensor([order.index(name) for name in CLASSES for _ in range(5)])
        for _ in range(200):
            optimizer.zero_grad()
            functional.cross_entropy(net(values), targets).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        torch.save({"state_dict": net.state_dict()}, base / file)
    (base / "shuffled.txt").write_text("\n".join(shuffled))
    return base


def scored(base: Path, work: Path, weights: str, more: str = "") -> Checkpoint:
    raw = tomllib.loads(RECIPE.format(weights=weights, more=more))
    recipe = validate(Recipe, raw, Path("recipe.toml"))
    index = index_file.build(recipe.data, base, work, Console(quiet=True))
    index_file.save(index, work)
    return loop.train(recipe, index, index_file.root_of(index, work), base, work, Console(quiet=True))


def top1(checkpoint: Checkpoint) -> list[float]:
    return [score.accuracy for score in checkpoint.metrics]


def test_natural_weights_are_refused_until_the_recipe_gives_the_order(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'100.0% if .* natural order, for 0, 1, 2, .*; set data.order = "natural" \('):
        scored(trained, tmp_path, "natural.pth")
    assert not (tmp_path / "model.safetensors").exists()
    right = scored(trained, tmp_path, "natural.pth", 'order = "natural"')
    assert top1(right) == [1.0, 1.0]
    assert right.doubts == ()
    kept = scored(trained, tmp_path, "natural.pth", 'order = "text"')
    assert max(top1(kept)) < 0.5
    assert "natural order" in kept.doubts[0]


def test_any_other_order_is_told_and_taken_from_a_file(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"stand, in this order, for 7, 3, 11, .*: give data.labels a file|; give data"
    ):
        scored(trained, tmp_path, "shuffled.pth")
    right = scored(trained, tmp_path, "shuffled.pth", 'labels = "shuffled.txt"')
    assert top1(right) == [1.0, 1.0]
    assert (tmp_path / index_file.LABELS).read_text().split() == (trained / "shuffled.txt").read_text().split()


def test_command_line_says_so_in_one_line(trained: Path, tmp_path: Path) -> None:
    (trained / "patches.toml").write_text(RECIPE.format(weights="natural.pth", more=""))
    said = complaint("train", trained / "patches.toml", "--out", tmp_path / "run", code=2)
    assert 'set data.order = "natural"' in said
    assert not (tmp_path / "run" / "2-train").exists()
