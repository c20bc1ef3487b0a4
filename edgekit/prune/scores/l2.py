"""Euclidean norm of the weights. Fang et al.: DepGraph (2023), the norm over a whole group of layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgekit.prune.groups import Part, even

GRADIENTS = False


def scores(parts: Sequence[Part], generator: torch.Generator) -> Tensor | None:
    """L2 norm of each channel's weights in every layer that writes or reads it, each layer counting alike.

    Args:
        parts: the group's layers, weights [channels, n].
        generator: not used.

    Returns:
        float32 [channels], larger is more important.
    """
    return even([part.weight.norm(dim=1) for part in parts if part.role != "norm"])
