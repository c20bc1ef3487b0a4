"""Sizes and proportions of the images against the network's input."""

from __future__ import annotations

import numpy as np

from edgekit.datacheck.port import Subject
from edgekit.datacheck.records import Checked, Found

TITLES = {"small": "Images smaller than the network's input", "long": "Images that lose most of themselves to the crop"}
ENLARGED = 2.0
"""How many times an image may be enlarged."""
LOST = 0.5
"""Share of an image that a crop may cut off."""
SHOWN = 12
"""Pictures of a finding."""


def run(subject: Subject) -> Checked:
    """Measure."""
    _, height, width = subject.data.shape
    scale = np.array([width, height]) / subject.sizes
    enlarged = scale.min(1) if subject.data.resize == "letterbox" else scale.max(1)
    samples, found = subject.index.samples, []
    order = np.argsort(-enlarged, kind="stable")
    if small := [int(place) for place in order if enlarged[place] > ENLARGED]:
        said = f"{len(small)} images are enlarged more than {ENLARGED:g} times, up to {enlarged[small[0]]:.1f} times"
        found.append(Found("small", said, subject.pictures(samples[place] for place in small[:SHOWN])))
    if subject.data.resize == "crop":
        kept = scale.min(1) / scale.max(1)
        order = np.argsort(kept, kind="stable")
        if long := [int(place) for place in order if kept[place] < 1 - LOST]:
            said = f'{len(long)} images lose more than {LOST:.0%}; data.resize = "letterbox" keeps all of an image'
            found.append(Found("long", said, subject.pictures(samples[place] for place in long[:SHOWN])))
    (low_w, low_h), (mid_w, mid_h), (high_w, high_h) = (
        np.quantile(subject.sizes, q, axis=0, method="inverted_cdf") for q in (0, 0.5, 1)
    )
    shapes = f"{low_w} to {high_w} wide (median {mid_w}), {low_h} to {high_h} high (median {mid_h})"
    return Checked(tuple(found), f"{shapes}; the input is {width} x {height}")
