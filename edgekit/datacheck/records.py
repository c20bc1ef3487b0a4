"""What a check of the data finds; ``check.json`` is exactly a `Result`. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgekit.types import Split

JSON, PAGE, EXCLUDE, RELABEL, SUSPECTS = "check.json", "check.html", "exclude.csv", "relabel.csv", "suspects.csv"
"""Names of the files that a check writes."""


@dataclass(frozen=True)
class Picture:
    """An image that a finding is about."""

    path: str
    """As in ``index.json``."""
    label: str = ""
    """Its class; empty where that is not known, as of an image that cleaning dropped."""
    split: Split | None = None


@dataclass(frozen=True)
class Found:
    """Something that may be wrong with the data."""

    kind: str
    """A word for what is wrong, e.g. ``leak``; findings of a kind are shown together."""
    detail: str
    """What is wrong, in one line."""
    pictures: tuple[Picture, ...] = ()
    """The images concerned, or the first of them."""
    score: float | None = None
    """How bad it is, where that can be said; what it means depends on the kind."""
    exclude: tuple[str, ...] = ()
    """Paths that ``data.exclude`` should name."""
    relabel: tuple[tuple[str, str], ...] = ()
    """Paths and classes that ``data.relabel`` should name."""
    suspect: tuple[tuple[str, str], ...] = ()
    """Paths and likelier classes that a person has to look at; those of `relabel` are among them."""


@dataclass(frozen=True)
class Checked:
    """What one module of ``edgekit/datacheck/checks`` said."""

    found: tuple[Found, ...] = ()
    note: str = ""
    """How it went about it, or why it was skipped, in one line."""
    skipped: bool = False


@dataclass(frozen=True)
class Result:
    """The whole check."""

    schema_version: Literal[1]
    name: str
    """Of the recipe."""
    labels: tuple[str, ...]
    counts: dict[str, tuple[int, ...]]
    """Images of each class, by split, after cleaning and corrections."""
    network: str
    """What computed the embeddings, or why there are none."""
    checks: dict[str, Checked]
    """By the name of the module."""
    seconds: float
    corrected: int = 0
    """Images that ``data.exclude`` and ``data.relabel`` name already; the files to fix repeat them."""

    @property
    def images(self) -> int:
        """How many there are, after cleaning and corrections."""
        return sum(map(sum, self.counts.values()))

    @property
    def found(self) -> tuple[Found, ...]:
        """All findings, check by check."""
        return tuple(found for checked in self.checks.values() for found in checked.found)

    @property
    def kinds(self) -> dict[str, tuple[Found, ...]]:
        """The findings by kind, in the order of the checks."""
        names = dict.fromkeys(found.kind for found in self.found)
        return {kind: tuple(found for found in self.found if found.kind == kind) for kind in names}
