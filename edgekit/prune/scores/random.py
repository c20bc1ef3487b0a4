"""Random channels: the baseline that every other score has to beat."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgekit.prune.groups import Part

GRADIENTS = False


def scores(parts: Sequence[Part], generator: torch.Generator) -> Tensor | None:
    """Uniform random numbers.

    Args:
        parts: the group's layers, weights [channels, n].
        generator: seeded by ``prune.seed``.

    Returns:
        float32 [channels], 0..1.
    """
    return torch.rand(len(parts[0].weight), generator=generator)
