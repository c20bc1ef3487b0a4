"""The batches of an epoch, prepared beside the training where that was measured to pay."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from edgekit.config.train_section import TrainSection
from edgekit.data.dataset import ImageSet, groups, load
from edgekit.train.balance import balanced_order
from edgekit.train.crew import Crew

WORTH = 0.03
"""Share of an epoch spent waiting for images from which processes beside the training are tried."""
SHORT = 5.0
"""Seconds of an epoch below which they would not pay for their start."""


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
    second has processes beside it, and the rest go on as the faster of the two did. The images are the same either way.

    Args:
        images: the training split.
        section: the recipe's [train].
        crew: whose part of each batch is loaded.
    """

    def __init__(self, images: ImageSet, section: TrainSection, crew: Crew) -> None:
        self._images, self._section, self._crew = images, section, crew
        self._paces: list[Pace] = []

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
        for values, labels in load(self._images, [self._crew.own(batch) for batch in batches], pace.workers):
            now = time.perf_counter()
            pace.waited += now - last
            pace.images += len(labels) * self._crew.size
            yield values, labels
            last = time.perf_counter()
            pace.seconds = last - began

    @property
    def pace(self) -> Pace:
        """How the latest epoch went."""
        return self._paces[-1]

    def _workers(self) -> int:
        if "jax" in sys.modules:  # the TFLite exporter has loaded it, and it may hang in a fork
            return 0
        if self._section.workers is not None:
            return self._section.workers
        cores = max(len(os.sched_getaffinity(0)) // self._crew.size, 1)
        if not self._paces or cores == 1:
            return 0
        first = self._paces[0]
        if len(self._paces) == 1:
            needed = math.ceil(first.wait / max(1 - first.wait, 1e-3))
            return min(needed, cores) if first.wait > WORTH and first.seconds > SHORT else 0
        return max(self._paces[:2], key=lambda pace: pace.rate).workers
