"""What a search finds out: plain data, saved as ``tune.json`` beside the runs. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["complete", "pruned", "failed", "running", "open"]
Unit = Literal["share", "ms", "bytes"]
"""A share is 0..1."""


@dataclass(frozen=True)
class Target:
    """One number that is optimised."""

    name: str
    """``accuracy``, ``size``, or ``latency on <device>``."""
    kind: str
    """The module of ``edgekit/tune/objectives``."""
    unit: Unit
    largest: bool
    """Whether more is better."""


@dataclass(frozen=True)
class Trial:
    """One run of the recipe with values of its own."""

    number: int
    """Its folder is ``trial-<number>``."""
    state: State
    """open: a worker was killed, and nobody has taken the trial over yet."""
    settings: dict[str, Any]
    """Values by key of the recipe."""
    values: tuple[float, ...] = ()
    """One for each target; empty unless complete."""
    of: tuple[str, ...] = ()
    """For each target, what exactly was scored: file, engine and device, or network and split."""
    epochs: dict[int, float] = field(default_factory=dict)
    """Validation accuracy of the float network, 0..1, by epoch."""
    seconds: float | None = None
    worker: str = ""
    """Host and process that finished it."""
    attempts: int = 1
    """How many workers began it: all but the last were killed or interrupted."""
    why: str = ""
    """Why it was stopped or failed."""


@dataclass(frozen=True)
class Result:
    """Where a search stands."""

    name: str
    """Of the study."""
    targets: tuple[Target, ...]
    space: dict[str, Any]
    """As the recipe has it, by key."""
    sampler: str
    pruner: str
    storage: str
    """Without its password."""
    asked: int
    """How many trials the search has."""
    trials: tuple[Trial, ...]
    """In the order of their numbers."""
    front: tuple[int, ...] = ()
    """Numbers of the trials that no other beats in every target, the best in the first one first. With one target that
    is the best trial alone."""
    importance: dict[str, float] = field(default_factory=dict)
    """Share of the first target's variance that each key explains; empty with too few trials."""
    said: str = ""
    """The outcome in words."""

    @property
    def settled(self) -> int:
        """How many trials are over."""
        return sum(trial.state in ("complete", "pruned", "failed") for trial in self.trials)

    @property
    def best(self) -> Trial | None:
        """The first of the front."""
        return next((trial for trial in self.trials if self.front and trial.number == self.front[0]), None)
