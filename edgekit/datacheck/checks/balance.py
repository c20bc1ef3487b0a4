"""How many images each class has in each split."""

from __future__ import annotations

from collections import Counter

from edgekit.datacheck.port import Subject
from edgekit.datacheck.records import Checked, Found
from edgekit.types import Split

TITLES = {
    "one_class": "All images are of one class",
    "few_images": "Classes with few images",
    "imbalance": "Classes of unlike sizes",
}
LEAST: dict[Split, int] = {"train": 20, "val": 10, "test": 10}
"""Fewer images of a class than this teach little, or say little: of 10, one is worth 10 points."""
SHOWN = 8
"""Classes that a finding names."""
RATIO = 10.0
"""Images of the largest class for each of the smallest from which on the small one is likely to be neglected."""


def run(subject: Subject) -> Checked:
    """Count."""
    labels, samples = subject.index.labels, subject.index.samples
    counts = Counter((sample.split, sample.label) for sample in samples)
    found = []
    if len({sample.label for sample in samples}) == 1:
        found.append(Found("one_class", f'all {len(samples)} images are of class "{labels[samples[0].label]}"'))
    for split, least in LEAST.items():
        sizes = sorted((counts[split, label], name) for label, name in enumerate(labels))
        if few := [f"{name} {count}" for count, name in sizes if count < least]:
            shown = ", ".join(few[:SHOWN]) + (", ..." if len(few) > SHOWN else "")
            said = f"{len(few)} of {len(labels)} classes have fewer than {least} images in {split}: {shown}"
            found += [Found("few_images", said)] if sizes[-1][0] else []  # else there is no such split
    train = sorted((counts["train", label], name) for label, name in enumerate(labels))
    (smallest, little), (largest, much) = train[0], train[-1]
    if largest >= RATIO * max(smallest, 1):
        said = f"{much} has {largest} images in train, {little} {smallest}"
        found.append(Found("imbalance", said, score=largest / max(smallest, 1)))
    said = f"{largest} images of the largest class in train ({much}), {smallest} of the smallest ({little})"
    return Checked(tuple(found), said if len(labels) > 1 else "")
