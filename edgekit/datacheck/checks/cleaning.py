"""What cleaning finds in single images, and in images with the very same pixels."""

from __future__ import annotations

from edgekit.datacheck.port import Subject
from edgekit.datacheck.records import Checked, Found, Picture

TITLES = {
    "unreadable": "Files that cannot be read",
    "mode": "Images in other colours",
    "range": "Nearly black images",
    "orientation": "Images turned by EXIF",
    "conflict": "The same pixels under two labels",
    "leak": "The same pixels in two splits",
    "duplicate": "The same pixels twice",
}


def run(subject: Subject) -> Checked:
    """Repeat what cleaning said; what the recipe refuses is to be left out, all else it deals with by itself."""
    found = []
    known = {sample.path: sample for sample in subject.index.samples}
    for each in subject.index.findings:
        refused = getattr(subject.data.clean, each.kind) == "error"
        picture = subject.picture(known[each.path]) if each.path in known else Picture(each.path)
        done = "the recipe refuses it" if refused else {"drop": "dropped", "keep": "kept"}[each.action]
        exclude = (each.path,) if refused and each.count == 1 else ()
        found.append(Found(each.kind, f"{each.path}: {each.detail} ({done})", (picture,), exclude=exclude))
    return Checked(tuple(found))
