"""The calibration images: read again on each pass, so that memory does not grow with their number."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from edgekit.data.transforms import evaluate, open_image
from edgekit.types import InputSpec, Sample


class Images:
    """Samples as float32 tensors of shape `spec.shape`; iterating again reads the files again.

    Args:
        root: folder that sample paths start from.
        samples: which images, in this order.
        spec: size and scaling.
        advance: called after each image of the first pass.
    """

    def __init__(
        self, root: Path, samples: Sequence[Sample], spec: InputSpec, advance: Callable[[], object] | None = None
    ) -> None:
        self.root = root
        self.samples = samples
        self.spec = spec
        self._advance = advance

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Tensor]:
        for sample in self.samples:
            yield torch.from_numpy(evaluate(open_image(self.root / sample.path, self.spec), self.spec))
            if self._advance is not None:
                self._advance()
        self._advance = None

    def describe(self, number: int) -> str:
        """Describe image `number`, counted from 1, for messages."""
        return f"{number} ({self.samples[number - 1].path})"


def digest(samples: Sequence[Sample]) -> str:
    """SHA-256 over the sorted paths and content hashes: the same for the same images in any order."""
    lines = sorted(f"{sample.path}\0{sample.sha256}\n" for sample in samples)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
