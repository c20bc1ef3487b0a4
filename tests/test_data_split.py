"""Splits: partition, shares, groups, order."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.config.recipe import DataSection
from edgekit.data.listing import Item, Scan
from edgekit.data.split import assign, calibration
from edgekit.errors import InputError
from edgekit.types import Index, Sample, Split

LABELS = tuple("abcdefgh")


def scans(counts: list[int], split: Split | None = None, copies: int = 1) -> list[Scan]:
    """counts[i] images of class i, each `copies` times."""
    return [
        Scan(
            Item(f"{split or 'all'}/{LABELS[label]}/{number:03}-{copy}.jpg", label, split),
            pixels=f"{split}{label}/{number}",
        )
        for label, count in enumerate(counts)
        for number in range(count)
        for copy in range(copies)
    ]


def section(**more: object) -> DataSection:
    return DataSection.model_validate({"source": "digits", **more})


shares = st.tuples(st.integers(0, 25), st.integers(0, 25)).map(lambda pair: (pair[0] / 100, pair[1] / 100))


@settings(deadline=None)
@given(st.lists(st.integers(4, 40), min_size=1, max_size=8), shares, st.integers(0, 99), st.randoms())
def test_assign_gives_each_class_its_share(
    counts: list[int], parts: tuple[float, float], seed: int, shuffler: random.Random
) -> None:
    val, test = parts
    images = scans(counts)
    data = section(val=val, test=test, seed=seed)
    splits = assign(images, LABELS, data)
    assert set(splits) == {image.item.path for image in images}
    got = Counter((image.item.label, splits[image.item.path]) for image in images)
    for label, count in enumerate(counts):
        assert abs(got[label, "val"] - count * val) <= 1
        assert abs(got[label, "test"] - count * test) <= 1
        assert got[label, "train"] >= 1
        assert (got[label, "val"] > 0) == (val > 0)
        assert (got[label, "test"] > 0) == (test > 0)
    shuffled = list(images)
    shuffler.shuffle(shuffled)
    assert assign(shuffled, LABELS, data) == splits


@settings(deadline=None)
@given(
    st.lists(st.integers(6, 20), min_size=1, max_size=5),
    st.integers(1, 4),
    st.sampled_from(["stratified", "strided"]),
    st.integers(0, 9),
)
def test_assign_keeps_equal_images_together(counts: list[int], copies: int, method: str, seed: int) -> None:
    images = scans(counts, copies=copies)
    splits = assign(images, LABELS, section(split=method, val=0.2, test=0.2, seed=seed))
    homes: dict[str, set[str]] = {}
    for image in images:
        homes.setdefault(image.pixels, set()).add(splits[image.item.path])
    assert all(len(home) == 1 for home in homes.values())


def test_assign_changes_with_the_seed_only() -> None:
    images = scans([20, 20])
    first = assign(images, LABELS, section(seed=0))
    assert assign(images, LABELS, section(seed=0)) == first
    assert assign(images, LABELS, section(seed=1)) != first


def test_assign_leaves_other_classes_alone_when_one_is_added() -> None:
    small, large = (assign(scans(counts), LABELS, section(val=0.2, test=0.2)) for counts in ([20, 20], [20, 20, 20]))
    assert small.items() <= large.items()


def test_assign_does_not_add_up_rounding_errors() -> None:
    images = [
        Scan(Item(f"{label}/{number}", label), pixels=f"{label}/{number}")
        for label in range(100)
        for number in range(10)
    ]
    splits = Counter(assign(images, [str(label) for label in range(100)], section(val=0.15, test=0.15)).values())
    assert splits == {"train": 700, "val": 150, "test": 150}


def test_assign_leaves_ready_splits_alone() -> None:
    images = scans([5, 5], "train") + scans([2, 2], "val") + scans([1, 3], "test")
    assert assign(images, LABELS, section()) == {image.item.path: image.item.split for image in images}


def test_assign_carves_validation_from_train_when_it_is_missing() -> None:
    images = scans([10, 20], "train") + scans([3, 3], "test")
    splits = assign(images, LABELS, section(val=0.2, test=0.5))
    assert Counter(splits.values()) == {"train": 24, "val": 6, "test": 6}
    assert all(splits[image.item.path] == "test" for image in images if image.item.split == "test")
    assert Counter(assign(images, LABELS, section(val=0.0)).values()) == {"train": 30, "test": 6}


def test_assign_takes_every_fifth_image_when_strided() -> None:
    images = [Scan(Item(f"{number:03}.jpg", 0), pixels=str(number)) for number in range(500)]
    splits = assign(images[::-1], ["only"], section(split="strided", val=0.0, test=0.8))
    train = [number for number in range(500) if splits[f"{number:03}.jpg"] == "train"]
    assert train == list(range(0, 500, 5))
    assert Counter(splits.values()) == {"train": 100, "test": 400}


@settings(deadline=None)
@given(st.integers(20, 300), shares)
def test_assign_meets_the_shares_when_strided(count: int, parts: tuple[float, float]) -> None:
    val, test = parts
    if not val or not test:
        return
    images = [Scan(Item(f"{number:03}.jpg", 0), pixels=str(number)) for number in range(count)]
    try:
        got = Counter(assign(images, ["only"], section(split="strided", val=val, test=test)).values())
    except InputError as error:
        assert "split empty" in str(error)  # noqa: PT017
        return
    assert abs(got["train"] - count * (1 - val - test)) <= 1
    assert abs(got["val"] - count * val) <= 2
    assert abs(got["test"] - count * test) <= 2


def test_assign_names_the_class_when_it_has_one_image() -> None:
    with pytest.raises(InputError, match='class "b" has one image'):
        assign(scans([5, 1]), LABELS, section())
    with pytest.raises(InputError, match='class "a" has one image'):
        assign(scans([1, 9], copies=3), LABELS, section())


def test_assign_leaves_validation_empty_unless_it_was_asked_for() -> None:
    splits = assign(scans([2, 2]), LABELS, section())
    assert Counter(splits.values()) == {"train": 2, "test": 2}
    with pytest.raises(InputError, match="4 images leave the val split empty"):
        assign(scans([2, 2]), LABELS, section(val=0.25))


def test_assign_names_the_split_when_it_is_empty() -> None:
    with pytest.raises(InputError, match="1 images leave the val split empty"):
        assign(scans([1]), LABELS, section(split="strided"))
    with pytest.raises(InputError, match="the training split is empty"):
        assign(scans([5], "test"), LABELS, section())


def index(counts: list[int]) -> Index:
    images = scans(counts)
    return Index("/", LABELS, tuple(Sample(image.item.path, image.item.label, "train", "") for image in images))


@given(st.lists(st.integers(1, 20), min_size=1, max_size=8), st.integers(1, 60), st.integers(0, 9), st.randoms())
def test_calibration_is_balanced_and_ignores_order(
    counts: list[int], count: int, seed: int, shuffler: random.Random
) -> None:
    data = index(counts)
    count = min(count, sum(counts))
    chosen = calibration(data, count, seed)
    assert len(set(chosen)) == len(chosen) == count
    got = Counter(sample.label for sample in chosen)
    fullest = max(got.values())
    assert all(got[label] >= min(images, fullest - 1) for label, images in enumerate(counts))
    samples = list(data.samples)
    shuffler.shuffle(samples)
    assert calibration(Index("/", LABELS, tuple(samples)), count, seed) == chosen


def test_calibration_takes_training_images_only() -> None:
    train, test = (Sample(f"{split}.jpg", 0, split, "") for split in ("train", "test"))
    assert calibration(Index("/", LABELS, (train, test)), 1, 0) == (train,)


@pytest.mark.parametrize(("train", "chosen"), [(1, 1), (42, 42), (128, 128), (300, 128)])
def test_calibration_takes_what_there_is_unless_it_is_told(train: int, chosen: int) -> None:
    assert len(calibration(index([train]), None, 0)) == chosen


def test_calibration_refuses_when_there_are_too_few_images() -> None:
    with pytest.raises(InputError, match=r"quantize.calibration = 9: the training split has 5 images"):
        calibration(index([2, 3]), 9, 0)
