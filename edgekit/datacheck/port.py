"""What every check of the data receives and offers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from edgekit import choices
from edgekit.config.recipe import DataSection
from edgekit.datacheck.records import Checked, Picture
from edgekit.types import Index, Sample


@dataclass(frozen=True)
class Subject:
    """The data set, each image read once."""

    data: DataSection
    """As the recipe has it."""
    index: Index
    """Cleaned, but for flaws that the recipe refuses: those are dropped, or kept where that does no harm."""
    root: Path
    sizes: npt.NDArray[np.int64]
    """(width, height) of each sample, shape (samples, 2)."""
    hashes: npt.NDArray[np.bool_]
    """See `edgekit.datacheck.fingerprints.perceptual`; shape (samples, bits)."""
    features: npt.NDArray[np.float32] | None
    """What the classifier of the recipe's network is given for each sample, (samples, features); None without
    pretrained weights."""
    pairs: tuple[tuple[int, int], ...]
    """Near-duplicates: places of two samples, the smaller first."""

    def picture(self, sample: Sample) -> Picture:
        """A sample as findings name it."""
        return Picture(sample.path, self.index.labels[sample.label], sample.split)

    def pictures(self, samples: Iterable[Sample]) -> tuple[Picture, ...]:
        """Several of them."""
        return tuple(map(self.picture, samples))


class Check(Protocol):
    """A module of ``edgekit/datacheck/checks``."""

    TITLES: dict[str, str]
    """Kinds of findings that it makes, each with a heading."""

    def run(self, subject: Subject) -> Checked:
        """Look at the data; nothing is changed."""


def check(name: str) -> Check:
    """The module of ``edgekit/datacheck/checks`` with that name."""
    return cast(Check, choices.pick("edgekit.datacheck.checks", name, "check"))
