"""Logits of a network over a split, and their scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgekit.data.dataset import ImageSet, load
from edgekit.graph import eager
from edgekit.train.crew import Crew
from edgekit.types import ClassScore, Metrics, Split


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


def score(predicted: npt.ArrayLike, labels: npt.ArrayLike, names: Sequence[str], split: Split) -> Metrics:
    """Accuracy, confusion matrix, precision, recall and F1 of each class, and their macro averages.

    A ratio with denominator 0 (a class that was never predicted, or has no images) counts as 0.

    Args:
        predicted: class of each image, integers [n].
        labels: true classes, integers [n].
        names: class names.
        split: which split the images are.
    """
    classes = len(names)
    cells = np.asarray(labels, np.int64) * classes + np.asarray(predicted, np.int64)
    confusion = np.bincount(cells, minlength=classes * classes).reshape(classes, classes)
    hits, support, guesses = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    precision = _ratio(hits, guesses)
    recall = _ratio(hits, support)
    f1 = _ratio(2 * hits, support + guesses)
    return Metrics(
        split=split,
        images=int(confusion.sum()),
        accuracy=float(hits.sum() / max(confusion.sum(), 1)),
        precision=float(precision.mean()),
        recall=float(recall.mean()),
        f1=float(f1.mean()),
        per_class=tuple(
            ClassScore(name, float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]))
            for i, name in enumerate(names)
        ),
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
    )


def _ratio(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)
