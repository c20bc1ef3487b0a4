"""Scale of the batch norms. Liu et al.: Learning Efficient Convolutional Networks through Network Slimming (2017)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgekit.prune.groups import Part, even

GRADIENTS = False


def scores(parts: Sequence[Part], generator: torch.Generator) -> Tensor | None:
    """Absolute scale of each channel in the group's batch norms, each norm counting alike.

    Args:
        parts: the group's layers, weights [channels, n].
        generator: not used.

    Returns:
        float32 [channels], larger is more important; None if the group has no batch norm; it is then not pruned.
    """
    return even([part.weight[:, 0].abs() for part in parts if part.role == "norm"])
