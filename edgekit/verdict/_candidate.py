"""One file in one engine on one device, with whatever speaks against shipping it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from edgekit.measurements import Objective, Timing
from edgekit.scores import Difference
from edgekit.types import Artifact

FLOAT = ("fp32", "fp16")
"""Precisions that the others must beat."""


@dataclass(frozen=True)
class Miss:
    """One reason not to ship a candidate."""

    text: str
    amount: float
    """How far off, relative to the bound; infinite if it is not a matter of degree."""


@dataclass(frozen=True)
class Candidate:
    """An artifact x engine x threads."""

    artifact: Artifact
    timing: Timing
    drop: float | None
    """Points of top-1 lost against torch fp32; None when either was not scored."""
    lost: Difference | None = None
    """The same with its interval, where both ran on the same images."""
    misses: tuple[Miss, ...] = field(default=())

    @property
    def name(self) -> str:
        """In words: ``tflite-int8 on litert, 1 thread``."""
        threads = self.timing.threads
        return f"{self.artifact.id} on {self.timing.engine}, {threads} thread{'s' if threads > 1 else ''}"

    @property
    def is_float(self) -> bool:
        """Whether it is a file that int8 must beat."""
        return self.artifact.precision in FLOAT

    @property
    def why_not(self) -> str:
        """The reasons not to ship it, worded to follow "but"."""
        return " and ".join(miss.text for miss in self.misses)


class Limits(Protocol):
    """What `edgekit.device.file.LimitsSection` offers; None is no limit."""

    @property
    def p90_ms(self) -> float | None:
        """Milliseconds."""

    @property
    def size_mb(self) -> float | None:
        """File size in 1e6 bytes."""

    @property
    def rss_mb(self) -> float | None:
        """Peak resident set in 1e6 bytes."""

    @property
    def ship_by(self) -> Objective | None:
        """What the file that ships must be best at; None: not said here."""


def quickest(candidates: Iterable[Candidate]) -> Candidate | None:
    """The candidate with the lowest p50; None if there are none."""
    return min(candidates, key=lambda candidate: candidate.timing.p50_ms, default=None)
