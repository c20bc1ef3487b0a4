"""Logits of a network over a split, and their scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgekit.data.dataset import ImageSet, load
from edgekit.graph import eager
from edgekit.graph.logits import classes, per_class
from edgekit.train.crew import Crew
from edgekit.types import Bin, Calibration, ClassScore, Metrics, Split
from edgekit.verdict import intervals

BINS = 15
"""As in Guo et al., On Calibration of Modern Neural Networks (2017)."""
FEW = 10
"""Up to this many classes, the two most likely ones are looked at, else five."""


def predict(module: nn.Module, images: ImageSet, batch: int = 64, crew: Crew | None = None) -> tuple[Tensor, Tensor]:
    """Run a network over a split in eval mode; its mode is restored.

    Args:
        module: from [n, channels, height, width] to [n, outputs].
        images: the split.
        batch: images per batch.
        crew: the processes that share the work.

    Returns:
        Logits, float32 [n, outputs], and labels, int64 [n], in the index's order, on the CPU.
    """
    training = module.training
    device, form = next(module.parameters()).device, eager.format_of(module)
    module.eval()
    crew = crew or Crew()
    places = range(len(images))[crew.rank :: crew.size]
    logits = []
    with torch.inference_mode():
        for values, _ in load(images, [places[start : start + batch] for start in range(0, len(places), batch)]):
            values = values.to(device, memory_format=form)
            logits.append(module(values).float().cpu())
    module.train(training)
    labels = torch.tensor([sample.label for sample in images.samples])
    return crew.gather(torch.cat(logits), len(images)), labels


def score(logits: Tensor | npt.NDArray[Any], labels: npt.ArrayLike, names: Sequence[str], split: Split) -> Metrics:
    """Accuracy, confusion matrix, precision, recall and F1 of each class, macro averages, calibration, intervals.

    A ratio with denominator 0 (a class that was never predicted, or has no images) counts as 0.

    Args:
        logits: float32 [n, outputs].
        labels: true classes, integers [n].
        names: class names.
        split: which split the images are.
    """
    values, true = torch.as_tensor(logits), np.asarray(labels, np.int64)
    predicted, size = np.asarray(classes(values), np.int64), len(names)
    confusion = np.bincount(true * size + predicted, minlength=size * size).reshape(size, size)
    hits, support, guesses = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    precision, recall, f1 = intervals.ratios(hits, support, guesses)
    return Metrics(
        split=split,
        images=len(true),
        accuracy=float(hits.sum() / max(len(true), 1)),
        precision=float(precision.mean()),
        recall=float(recall.mean()),
        f1=float(f1.mean()),
        per_class=tuple(
            ClassScore(name, float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]))
            for i, name in enumerate(names)
        ),
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
        near=_near(values, true),
        calibration=calibration(values, true),
        intervals={"accuracy": intervals.share(int(hits.sum()), len(true)), **intervals.macro(confusion)},
    )


def calibration(logits: Tensor, labels: npt.NDArray[np.int64]) -> Calibration | None:
    """Expected calibration error in `BINS` ranges of equal width, and its parts; None if a logit is not finite.

    Args:
        logits: float32 [n, outputs].
        labels: true classes [n].
    """
    chances = per_class(logits.double()).softmax(1).numpy()
    if not np.isfinite(chances).all():
        return None
    confidence, right = chances.max(1), np.asarray(classes(logits)) == labels
    place = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    bins = tuple(
        Bin(int(inside.sum()), float(confidence[inside].mean()), float(right[inside].mean()))
        for inside in (place == each for each in range(BINS))
        if inside.any()
    )
    error = sum(each.images * abs(each.accuracy - each.confidence) for each in bins) / len(labels)
    return Calibration(float(error), bins)


def _near(logits: Tensor, labels: npt.NDArray[np.int64]) -> tuple[int, float] | None:
    """k, and top-k accuracy."""
    count = logits.shape[1]
    if count <= 2:
        return None
    k = 5 if count > FEW else 2
    return k, float((logits.topk(k).indices == torch.as_tensor(labels)[:, None]).any(1).float().mean())
