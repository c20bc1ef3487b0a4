"""The batches of an epoch, prepared beside the training where that was measured to pay."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from edgekit.config.train_section import TrainSection
from edgekit.data.dataset import ImageSet, groups, load
from edgekit.train.balance import balanced_order
from edgekit.train.crew import Crew

WORTH = 0.03
"""Share of an epoch spent waiting for images from which processes beside the training are tried."""
SHORT = 5.0
"""Seconds of an epoch below which they would not pay for their start."""
MOST = 8
"""Processes beside the training that are started unless the recipe says how many."""
CHANCE = 0.05
"""Share by which the rates of two equal epochs differ by chance."""
PROBES = 8
"""Images whose preparation is timed."""


class _Helpers:
    """Processes that prepare batches for as many epochs as are asked for.

    They are to be started while the training has little memory: what it writes while they run, the system has to copy
    first, page by page.

    Args:
        images: in memory already, if they are to be.
        count: of the processes.
    """

    def __init__(self, images: ImageSet, count: int) -> None:
        self._plans: list[list[list[tuple[int, int]]]] = [[] for _ in range(count)]
        self._loaders: list[DataLoader[tuple[Tensor, Tensor]]] = [
            # Without its own generator, the loader would draw from the global one.
            DataLoader(
                _OfEpoch(images),  # type: ignore[arg-type]
                batch_sampler=plan,
                num_workers=1,
                persistent_workers=True,
                generator=torch.Generator(),
            )
            for plan in self._plans
        ]
        for loader in self._loaders:
            list(loader)  # of no batches; starts its process

    def __len__(self) -> int:
        return len(self._loaders)

    def load(self, epoch: int, places: Sequence[Sequence[int]], count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of an epoch, which `count` of the processes prepare in turn."""
        for first, plan in enumerate(self._plans[:count]):
            plan[:] = [[(epoch, place) for place in batch] for batch in places[first::count]]
        streams = [iter(loader) for loader in self._loaders[:count]]
        for stream in islice(cycle(streams), len(places)):
            yield next(stream)


class _OfEpoch(Dataset[tuple[Tensor, int]]):
    """Images by epoch and place: a process that goes on from epoch to epoch is told with each image."""

    def __init__(self, images: ImageSet) -> None:
        self._images = images

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, place = key
        self._images.set_epoch(epoch)
        return self._images[place]


@dataclass
class Pace:
    """How an epoch went: seconds, those of them spent waiting for images, and how many images there were."""

    workers: int
    images: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def wait(self) -> float:
        """Share of the time spent waiting for images, 0..1."""
        return self.waited / self.seconds if self.seconds else 0.0


class Loader:
    """The training images, batch by batch.

    The first epoch prepares them in the training process. If it spent more than `WORTH` of its time with that, the
    second has processes beside it, which stay unless they made it clearly slower. The images are the same either way.
    Inside `started`, these processes wait from the beginning on.

    Args:
        images: the training split.
        section: the recipe's [train].
        crew: whose part of each batch is loaded.
    """

    def __init__(self, images: ImageSet, section: TrainSection, crew: Crew) -> None:
        self._images, self._section, self._crew = images, section, crew
        self._paces: list[Pace] = []
        self._helpers: _Helpers | None = None

    @contextmanager
    def started(self) -> Iterator[Loader]:
        """Start the processes that may be of use, before the training begins, and end them after it."""
        count = self._most()
        if count and (self._section.workers or self._slow()):
            self._helpers = _Helpers(self._images, count)
        try:
            yield self
        finally:
            self._helpers = None

    def groups(self, epoch: int) -> list[Sequence[int]]:
        """The batches of an epoch, from 0, as places in the split."""
        section, images = self._section, self._images
        if section.sampler == "balanced":
            order = balanced_order([sample.label for sample in images.samples], section.seed, epoch)
        else:
            order = images.order(epoch)
        return groups(order, section.batch, self._crew.size)

    def epoch(self, number: int, batches: Sequence[Sequence[int]]) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's parts of some batches: float32 [n, channels, height, width] and int64 [n]."""
        self._images.set_epoch(number)
        self._images.preload()  # once in a run, so no epoch's own time
        pace = Pace(self._workers())
        self._paces.append(pace)
        began = last = time.perf_counter()
        own = [self._crew.own(batch) for batch in batches]
        for values, labels in self._load(number, own, pace.workers):
            now = time.perf_counter()
            pace.waited += now - last
            pace.images += len(labels) * self._crew.size
            yield values, labels
            last = time.perf_counter()
            pace.seconds = last - began

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image: channels, height, width."""
        return self._images.spec.shape

    @property
    def pace(self) -> Pace:
        """How the latest epoch went."""
        return self._paces[-1]

    def _load(self, epoch: int, own: Sequence[Sequence[int]], workers: int) -> Iterator[tuple[Tensor, Tensor]]:
        if not workers:
            return load(self._images, own)
        if self._helpers is None:
            self._helpers = _Helpers(self._images, workers)
        return self._helpers.load(epoch, own, workers)

    def _most(self) -> int:
        """Processes that may be of use at some time."""
        if "jax" in sys.modules:  # the TFLite exporter has loaded it, and it may hang in a fork
            return 0
        if self._section.workers is not None:
            return self._section.workers
        cores = max(len(os.sched_getaffinity(0)) // self._crew.size, 1)
        return min(cores, MOST) if cores > 1 and self._section.epochs > 1 else 0

    def _slow(self) -> bool:
        """Whether preparing the images of an epoch takes so long that processes for it may pay."""
        self._images.preload()
        few = range(min(PROBES, len(self._images)))
        began = time.perf_counter()
        for place in few:
            self._images[place]
        return (time.perf_counter() - began) / len(few) * len(self._images) > WORTH * SHORT

    def _workers(self) -> int:
        if self._section.workers is not None:
            return self._most()
        most = self._most() if self._helpers is None else len(self._helpers)
        if not self._paces or not most:
            return 0
        first = self._paces[0]
        if len(self._paces) == 1:
            needed = math.ceil(first.wait / max(1 - first.wait, 1e-3))
            return min(needed, most) if first.wait > WORTH and first.seconds > SHORT else 0
        second = self._paces[1]
        return second.workers if second.rate >= first.rate * (1 - CHANCE) else 0
