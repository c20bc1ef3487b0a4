"""Tensors of one split: the same whatever the cache, the workers and the order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgekit.data.dataset import ImageSet, batches
from edgekit.data.transforms import evaluate, open_image
from edgekit.types import Index, InputSpec, Sample

SPEC = InputSpec(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
AUGMENT = ("random_crop", "flip", "color_jitter", "trivial_augment")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    root = tmp_path_factory.mktemp("images")
    samples = []
    for number in range(13):
        size = (20 + number, 80) if number % 2 else (24, 18)
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.png")
        samples.append(Sample(f"{number}.png", number % 3, "train", ""))
    return Index(str(root), ("a", "b", "c"), tuple(samples))


def images(index: Index, **more: object) -> ImageSet:
    return ImageSet(index, Path(index.root), "train", SPEC, **more)  # type: ignore[arg-type]


def test_image_set_gives_the_evaluation_path_when_nothing_is_augmented(index: Index) -> None:
    dataset = images(index)
    for preloaded in (False, True):
        assert not preloaded or dataset.preload()
        for place, sample in enumerate(index.samples):
            values, label = dataset[place]
            assert label == sample.label
            assert values.dtype == torch.float32
            np.testing.assert_array_equal(
                values.numpy(), evaluate(open_image(Path(index.root) / sample.path, SPEC), SPEC)
            )


def test_image_set_repeats_an_epoch_whatever_the_order_and_the_cache(index: Index) -> None:
    first = images(index, augment=AUGMENT, seed=3)
    first.set_epoch(5)
    wanted = [first[place][0] for place in range(len(first))]
    second = images(index, augment=AUGMENT, seed=3)
    assert second.preload()
    for epoch in (0, 5):
        second.set_epoch(epoch)
        got = {place: second[place][0] for place in reversed(range(len(second)))}
        same = [torch.equal(got[place], wanted[place]) for place in range(len(second))]
        assert all(same) if epoch == 5 else not any(same)
    other = images(index, augment=AUGMENT, seed=4)
    other.set_epoch(5)
    assert not torch.equal(other[0][0], wanted[0])


def test_image_set_leaves_the_global_generator_alone(index: Index) -> None:
    dataset = images(index, augment=AUGMENT)
    torch.manual_seed(1)
    wanted = torch.rand(4)
    torch.manual_seed(1)
    list(batches(dataset, 4, epoch=0))
    assert torch.equal(torch.rand(4), wanted)


def test_preload_refuses_when_the_budget_is_small(index: Index) -> None:
    assert not images(index, budget=1000).preload()
    assert not images(index, augment=AUGMENT, budget=10_000).preload()


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # JAX, where another test has imported it
@pytest.mark.parametrize("augment", [(), AUGMENT])
def test_batches_agree_with_and_without_workers_and_cache(index: Index, augment: tuple[str, ...]) -> None:
    runs = [
        list(batches(images(index, augment=augment, budget=budget), 4, epoch=2, workers=workers))
        for budget, workers in ((1 << 30, 0), (0, 0), (1 << 30, 2), (0, 1))
    ]
    for run in runs[1:]:
        for (x, y), (wanted_x, wanted_y) in zip(run, runs[0], strict=True):
            assert torch.equal(x, wanted_x)
            assert torch.equal(y, wanted_y)


def test_batches_cover_the_split_once(index: Index) -> None:
    dataset = images(index)
    labels = [sample.label for sample in index.samples]
    ordered = list(batches(dataset, 4))
    assert [len(y) for _, y in ordered] == [4, 4, 4, 1]
    assert torch.cat([y for _, y in ordered]).tolist() == labels
    assert ordered[0][0].shape == (4, 3, 16, 16)
    assert ordered[0][1].dtype == torch.int64
    shuffled = list(batches(dataset, 4, epoch=0))
    assert [len(y) for _, y in shuffled] == [4, 4, 5]  # batch norm needs two images
    assert torch.cat([y for _, y in shuffled]).tolist() == [labels[place] for place in dataset.order(0)]


def test_order_is_a_permutation_of_its_own_each_epoch(index: Index) -> None:
    dataset = images(index, seed=7)
    assert sorted(dataset.order(0)) == list(range(13))
    assert dataset.order(0) == images(index, seed=7).order(0)
    assert dataset.order(0) != dataset.order(1)
    assert dataset.order(0) != images(index, seed=8).order(0)
