"""Images that look the same though their pixels differ: resized, recompressed, brightened, or shots of one moment."""

from __future__ import annotations

from collections import defaultdict

from edgekit.datacheck.fingerprints import groups
from edgekit.datacheck.port import Subject
from edgekit.datacheck.records import Checked, Found

TITLES = {
    "near_conflict": "Near-duplicates under different labels",
    "near_leak": "Near-duplicates in different splits",
    "near_duplicate": "Near-duplicates in one split",
}
_KEEPS = {"test": 0, "val": 1, "train": 2}
"""As cleaning keeps identical ones: the test split does not change."""


def run(subject: Subject) -> Checked:
    """Group them; of each group one image stays. Labels that differ are for a person to settle."""
    samples = subject.index.samples
    members: dict[int, list[int]] = defaultdict(list)
    for place, number in enumerate(groups(len(samples), subject.pairs)):
        members[int(number)].append(place)
    found = []
    for places in members.values():
        if len(places) == 1:
            continue
        places.sort(key=lambda place: (_KEEPS[samples[place].split], -int(subject.sizes[place].prod()), place))
        same = [samples[place] for place in places]
        first, *others = same
        exclude: tuple[str, ...] = tuple(other.path for other in others)
        if len({sample.label for sample in same}) > 1:
            kind, exclude = "near_conflict", ()
            said = " and ".join(sorted({subject.index.labels[sample.label] for sample in same}))
            said = f"labelled {said}: relabel or leave out by hand"
        elif len({sample.split for sample in same}) > 1:
            kind, said = "near_leak", f"{first.path} stays in {first.split}"
        else:
            kind, said = "near_duplicate", f"{first.path} stays"
        found.append(Found(kind, f"{len(same)} images look the same; {said}", subject.pictures(same), exclude=exclude))
    asked = "perceptual hashes" if subject.features is None else "perceptual hashes, confirmed by embeddings"
    order = tuple(TITLES)
    return Checked(tuple(sorted(found, key=lambda each: order.index(each.kind))), f"by {asked}")
