"""First-order estimate of each channel's effect on the loss.

Molchanov et al.: Importance Estimation for Neural Network Pruning (2019).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgekit.prune.groups import Part

GRADIENTS = True
"""This score needs gradients, so it is averaged over batches of training images."""


def scores(parts: Sequence[Part], generator: torch.Generator) -> Tensor | None:
    """Squared change of the loss, to first order, if nothing reads the channel any more.

    The sum of weight times gradient over all weights that read a channel is the loss's slope along a gate on it,
    residual adds and squeeze-and-excite branches included.

    Args:
        parts: the group's layers, weights and gradients [channels, n].
        generator: not used.

    Returns:
        float32 [channels], larger is more important.
    """
    slope = torch.zeros(len(parts[0].weight))
    for part in parts:
        if part.role == "reads":
            assert part.gradient is not None
            slope += (part.weight * part.gradient).sum(1)
    return slope.square()
