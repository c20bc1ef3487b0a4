"""One split of an index as tensors, with augmentation that a resumed run repeats bit for bit."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from edgekit.data.transforms import augmenter, fit, normalise, open_image, strict_pillow
from edgekit.types import Index, InputSpec, Split

Pixels = npt.NDArray[np.uint8]


class ImageSet(Dataset[tuple[Tensor, int]]):
    """Images of one split as (float32 tensor of shape `spec.shape`, label).

    The augmentation of image i in epoch n depends on (seed, n, i) only, not on workers or order. Decoded images
    stay in memory when the whole split fits into `budget`, so that JPEGs are decoded once.

    Args:
        index: the data set.
        root: folder that sample paths start from, see `root_of`.
        split: which split of the index.
        spec: size and scaling.
        augment: names as in `augmenter`; if empty, images are preprocessed as in `evaluate`.
        seed: for shuffling and augmentation.
        budget: bytes that decoded images may take.
    """

    def __init__(
        self,
        index: Index,
        root: Path,
        split: Split,
        spec: InputSpec,
        augment: Sequence[str] = (),
        seed: int = 0,
        budget: int = 512 << 20,
    ) -> None:
        self.samples = index.split(split)
        self.root = root
        self.spec = spec
        self.seed = seed
        self.epoch = 0
        self.budget = budget
        self._augment = augmenter(augment, spec) if augment else None
        self._cache: list[Pixels] | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        pixels = self._cache[place] if self._cache is not None else self._read(place)
        if self._augment is None:
            values = normalise(pixels.reshape(*pixels.shape[:2], -1), self.spec)
        else:
            # Torchvision draws from the global generator: seed it for this image, then restore its state.
            state = torch.get_rng_state()
            try:
                torch.default_generator.manual_seed(_mix(self.seed, self.epoch, place))
                values = self._augment(Image.fromarray(pixels))
            finally:
                torch.set_rng_state(state)
        return torch.from_numpy(values), self.samples[place].label

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose augmentation comes next."""
        self.epoch = epoch

    def order(self, epoch: int) -> list[int]:
        """The shuffled order of an epoch; depends on (seed, epoch) only."""
        generator = random.Random(f"{self.seed}/{epoch}")  # noqa: S311
        keys = [generator.random() for _ in self.samples]
        return sorted(range(len(keys)), key=keys.__getitem__)

    def preload(self) -> bool:
        """Decode the split into memory, on all cores, unless it would exceed the budget.

        Returns:
            Whether the images are in memory now.
        """
        if self._cache is None and self._bytes() <= self.budget:
            with strict_pillow(), ThreadPoolExecutor(os.cpu_count()) as pool:
                self._cache = list(pool.map(self._decode, range(len(self))))
        return self._cache is not None

    def _bytes(self) -> int:
        channels = self.spec.shape[0]
        if self._augment is None:
            return len(self) * math.prod(self.spec.shape)
        total = 0
        for sample in self.samples:
            with strict_pillow(), Image.open(self.root / sample.path) as image:
                width, height = _capped(image.size, self.spec)
            total += channels * width * height
            if total > self.budget:
                break
        return total

    def _read(self, place: int) -> Pixels:
        return self._decode(place)

    def _decode(self, place: int) -> Pixels:
        image = open_image(self.root / self.samples[place].path, self.spec)
        if self._augment is None:
            return np.array(fit(image, self.spec))
        size = _capped(image.size, self.spec)
        # A crop of 35 % of the area still has more pixels than the network sees.
        return np.array(image if size == image.size else image.resize(size, Image.Resampling.BILINEAR))


def _capped(size: tuple[int, int], spec: InputSpec) -> tuple[int, int]:
    """Size at which a training image is kept: at most twice what the network's input takes of it."""
    _, height, width = spec.shape
    shrink = (min if spec.resize == "letterbox" else max)(2 * width / size[0], 2 * height / size[1])
    return size if shrink >= 1 else (round(size[0] * shrink), round(size[1] * shrink))


def _mix(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def batches(
    dataset: ImageSet, batch: int, epoch: int | None = None, workers: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """One pass over a split.

    Args:
        dataset: the split.
        batch: images per batch, see `groups`.
        epoch: shuffles and augments for this epoch (from 0); None keeps the index's order.
        workers: processes that decode and augment in the background; 0 does it in the training process.

    Yields:
        float32 [n, channels, height, width] and int64 [n].
    """
    if epoch is None:
        order = list(range(len(dataset)))
        yield from load(dataset, [order[start : start + batch] for start in range(0, len(order), batch)], workers)
    else:
        dataset.set_epoch(epoch)
        yield from load(dataset, groups(dataset.order(epoch), batch), workers)


def groups(order: Sequence[int], batch: int, parts: int = 1) -> list[Sequence[int]]:
    """The batches of an epoch of training.

    Args:
        order: places of the images.
        batch: images per batch. The last one may be smaller; fewer than two images for each part join the batch before
            it, as batch norm needs two.
        parts: into which each batch will be divided.
    """
    found = [order[start : start + batch] for start in range(0, len(order), batch)]
    if len(found) > 1 and len(found[-1]) < 2 * parts:
        found[-2:] = [[*found[-2], *found[-1]]]
    return found


def load(dataset: ImageSet, places: Sequence[Sequence[int]], workers: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of images by their places; see `batches`."""
    dataset.preload()
    # Without its own generator, the loader would draw from the global one.
    yield from DataLoader(dataset, batch_sampler=places, num_workers=workers, generator=torch.Generator())  # type: ignore[arg-type]
