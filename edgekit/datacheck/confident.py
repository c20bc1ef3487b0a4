"""Confident learning: which labels are likely wrong, from predictions by models that have not seen them.

Source: Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 70, 2021.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
RIDGE = 0.2
"""Penalty on squared weights beside the mean loss: embeddings have about as many numbers as there are images, and with
less of it every guess is certain."""


@dataclass(frozen=True)
class Suspect:
    """An image whose label is likely wrong."""

    place: int
    suggested: int
    """The class that it more likely is of."""
    margin: float
    """Probability of its label less that of the suggested class, -1..0: the clearest cases have the smallest."""


def suspects(probabilities: Floats, labels: Integers) -> list[Suspect]:
    """The off-diagonal entries of the confident joint, the clearest first.

    An image counts as one of class j if its probability of j is at least the mean of that probability over the images
    labelled j (and, among several such classes, as one of the likeliest). It is suspect if j is not its label, and its
    label is not its likeliest class.

    Args:
        probabilities: out of fold, shape (images, classes); rows sum to 1.
        labels: given ones, shape (images,); every class occurs.
    """
    rows, classes = np.arange(len(labels)), probabilities.shape[1]
    thresholds = np.array([probabilities[labels == label, label].mean() for label in range(classes)])
    confident = np.where(probabilities >= thresholds - 1e-6, probabilities, -1.0)
    suggested = confident.argmax(1)
    apart = (confident.max(1) >= 0) & (suggested != labels) & (probabilities.argmax(1) != labels)
    margins = probabilities[rows, labels] - probabilities[rows, suggested]
    found = [Suspect(int(place), int(suggested[place]), float(margins[place])) for place in np.flatnonzero(apart)]
    return sorted(found, key=lambda suspect: (suspect.margin, suspect.place))


def out_of_fold(features: npt.NDArray[np.float32], labels: Integers, groups: Integers, folds: int, seed: int) -> Floats:
    """Class probabilities of each image, from a logistic regression on the other folds' standardised features.

    Args:
        features: shape (images, features).
        labels: shape (images,); each class in at least `folds` groups.
        groups: images with the same number are in the same fold, so that none vouches for the label of its copy.
        folds: how many.
        seed: of the assignment to folds.

    Returns:
        Shape (images, classes).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=1 / (2 * RIDGE * len(labels)), max_iter=1000))
    parts = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    predicted: Floats = cross_val_predict(model, features, labels, groups=groups, cv=parts, method="predict_proba")
    return predicted
