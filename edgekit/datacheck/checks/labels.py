"""Labels that are likely wrong: confident learning on the embeddings."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from edgekit.datacheck import confident
from edgekit.datacheck.fingerprints import groups
from edgekit.datacheck.port import Subject
from edgekit.datacheck.records import Checked, Found

TITLES = {"label": "Labels that are likely wrong"}
FOLDS = 5
CLEAR = -0.9
"""Margin up to which a new label is proposed: on TrashNet with 5 % of its labels flipped, all of these were flipped
ones. Above it, about a third, and a person has to look."""


def run(subject: Subject) -> Checked:
    """Predict each image's class from the others, and doubt the labels of which the predictions are sure otherwise."""
    if subject.features is None:
        return Checked(note="needs embeddings", skipped=True)
    samples, names = subject.index.samples, subject.index.labels
    given = np.array([sample.label for sample in samples], np.int64)
    alike = groups(len(samples), subject.pairs)
    sorts: dict[int, set[int]] = defaultdict(set)
    for label, group in zip(given, alike, strict=True):
        sorts[int(label)].add(int(group))
    usable = sorted(label for label, members in sorts.items() if len(members) >= FOLDS)
    if len(usable) < 2:
        return Checked(note=f"needs two classes of at least {FOLDS} different images each", skipped=True)
    places = np.flatnonzero(np.isin(given, usable))
    labels = np.searchsorted(usable, given[places])
    guesses = confident.out_of_fold(subject.features[places], labels, alike[places], FOLDS, subject.data.seed)
    found = []
    for suspect in confident.suspects(guesses, labels):
        sample, suggested = samples[places[suspect.place]], names[usable[suspect.suggested]]
        own, other = guesses[suspect.place][[labels[suspect.place], suspect.suggested]]
        said = f"{sample.path}: {names[sample.label]} {own:.0%}, {suggested} {other:.0%}"
        row = ((sample.path, suggested),)
        clear = row if suspect.margin <= CLEAR else ()
        found.append(Found("label", said, (subject.picture(sample),), suspect.margin, relabel=clear, suspect=row))
    right = float((guesses.argmax(1) == labels).mean())
    note = f"{FOLDS}-fold logistic regression on embeddings agrees with {right:.1%} of {len(places)} labels"
    left = len(names) - len(usable)
    note += f"; {left} classes with fewer than {FOLDS} images were left out" if left else ""
    return Checked(tuple(found), note)
