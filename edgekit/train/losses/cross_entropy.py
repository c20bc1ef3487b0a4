"""Cross entropy, with label smoothing and weights of classes."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from edgekit.config.train_section import TrainSection
from edgekit.train.balance import weighted


def criterion(section: TrainSection, weights: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of a batch; see `edgekit.train.port.Loss`."""
    smoothing = section.label_smoothing

    def of(logits: Tensor, targets: Tensor) -> Tensor:
        if weights is None:
            return functional.cross_entropy(logits, targets, label_smoothing=smoothing)
        each = functional.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
        return weighted(each, targets, weights)

    return of
