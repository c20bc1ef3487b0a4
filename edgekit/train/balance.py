"""Classes with few images: weights of the loss, and a sampler that draws each class equally often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from edgekit import choices
from edgekit.config.train_section import TrainSection
from edgekit.errors import InputError


def weights(section: TrainSection, labels: Sequence[int], names: Sequence[str]) -> Tensor | None:
    """Weights of the classes in the loss.

    "balanced" is ``images / (classes * images of the class)``, over classes with images, as in scikit-learn. All
    weights are scaled so that their mean over the images is 1, which keeps the learning rate's meaning.

    Args:
        section: the recipe's [train].
        labels: of the training images.
        names: of all classes.

    Returns:
        float32 [classes]; None: all are 1.

    Raises:
        InputError: the recipe weights a class that there is not.
    """
    given = section.class_weights
    if given == "none":
        return None
    counts = torch.bincount(torch.tensor(labels), minlength=len(names)).double()
    if isinstance(given, dict):
        for name in given:
            if name not in names:
                raise InputError(f"train.class_weights: {choices.no_such(name, names, 'class')}")
        found = torch.tensor([given.get(name, 1.0) for name in names], dtype=torch.float64)
    else:
        found = counts.clamp(min=1).reciprocal()
    return (found * (counts.sum() / (found * counts).sum())).float()


def weighted(losses: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """The mean of the losses of images, [n], each times the weight of its class, or of the classes it is mixed from."""
    weights = weights.to(losses.device)
    of = targets.to(weights) @ weights if targets.is_floating_point() else weights[targets]
    return (losses * of).mean()


def balanced_order(labels: Sequence[int], seed: int, epoch: int) -> list[int]:
    """As many places as there are images, drawn with replacement so that each class is equally likely.

    Depends on (seed, epoch) only, so that a resumed run draws the same.
    """
    counts = Counter(labels)
    shares = np.array([1 / (len(counts) * counts[label]) for label in labels])
    generator = np.random.default_rng(np.random.SeedSequence((seed, epoch, len(labels))))
    return [int(place) for place in generator.choice(len(labels), len(labels), p=shares / shares.sum())]
