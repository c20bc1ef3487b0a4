"""Focal loss: images that the network is sure of count less.

Lin et al. 2017 (Focal Loss for Dense Object Detection), with a softmax over the classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from edgekit.config.train_section import TrainSection
from edgekit.train.balance import weighted


def criterion(section: TrainSection, weights: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of a batch; see `edgekit.train.port.Loss`. Each class of a target counts (1 - p) ** gamma * -log p."""
    gamma, smoothing = section.focal_gamma, section.label_smoothing

    def of(logits: Tensor, targets: Tensor) -> Tensor:
        shares = targets if targets.is_floating_point() else functional.one_hot(targets, logits.shape[1]).to(logits)
        shares = shares * (1 - smoothing) + smoothing / logits.shape[1]
        sure = functional.log_softmax(logits, dim=1)
        each = -(shares * (1 - torch.exp(sure)) ** gamma * sure).sum(1)
        return each.mean() if weights is None else weighted(each, targets, weights)

    return of
