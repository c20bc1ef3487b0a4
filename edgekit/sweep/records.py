"""What a sweep finds out: plain data, saved as ``sweep.json`` beside the runs. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from edgekit.measurements import Kind, Machine

State = Literal["done", "failed", "left out", "open"]


@dataclass(frozen=True)
class Progress:
    """How far one combination is, saved in its run directory."""

    key: str
    """Hash of all that its results depend on: with another one, this says nothing."""
    reached: str = ""
    """The last stage that has ended."""
    seconds: float = 0.0
    """Spent on it, by all workers."""
    worker: str = ""
    """Host and process that was the last to work on it."""
    why: str = ""
    """Why it failed; empty if it has not."""
    stage: str = ""
    """The stage at which a network fell short; whoever shares that stage falls short as well."""
    lost: str = ""
    """What was not measured because a device was not reached."""


@dataclass(frozen=True)
class Row:
    """What one combination would ship on one device. Times in milliseconds."""

    combination: int
    device: str
    """Empty if nothing was measured."""
    artifact: str
    bytes: int
    top1: float
    """Of the file in its engine, 0..1."""
    top1_ci: tuple[float, float]
    """95 % interval, by the number of images."""
    split: str
    images: int
    p50_ms: float | None = None
    """This and what follows: None or empty if nothing was measured."""
    p50_ci: tuple[float, float] | None = None
    kind: Kind | None = None
    engine: str = ""
    engine_version: str = ""
    threads: int = 0
    why: str = ""
    """Why this file: the verdict of its run."""
    front: bool = False
    """Whether no other row of its device and kind beats it in top-1, p50 and size."""


@dataclass(frozen=True)
class Combination:
    """One recipe of the sweep, and how it ended."""

    number: int
    settings: dict[str, Any]
    folder: str
    state: State
    """left out: there was nothing to run."""
    why: str = ""
    """Why it failed or was left out, or what was not measured."""
    stages: tuple[tuple[str, int, float], ...] = ()
    """Of each stage that has ended: its name, the number of the first combination that shares it, and the seconds that
    it took, once for all of them."""
    seconds: float = 0.0
    worker: str = ""


@dataclass(frozen=True)
class Result:
    """Where a sweep stands."""

    name: str
    """Of the recipe."""
    edgekit: str
    """Its version."""
    varied: dict[str, list[Any]]
    """Values by key."""
    combinations: tuple[Combination, ...]
    rows: tuple[Row, ...] = ()
    """By device, in the order of the combinations."""
    machines: dict[str, Machine] | None = None
    """By device."""
    said: str = ""
    """The outcome in words."""
    method: str = ""
    """How times were taken, in words."""

    @property
    def places(self) -> list[tuple[str, Kind | None]]:
        """Device and kind of each front: rows of different ones are never compared."""
        return list(dict.fromkeys((row.device, row.kind) for row in self.rows))

    def at(self, device: str, kind: Kind | None) -> list[Row]:
        """The rows of one place."""
        return [row for row in self.rows if (row.device, row.kind) == (device, kind)]

    def count(self, state: State) -> int:
        """How many combinations are in a state."""
        return sum(one.state == state for one in self.combinations)
