"""What a search for a learning rate found."""

from __future__ import annotations

from dataclasses import dataclass

JSON, PAGE, TABLE = "find-lr.json", "find-lr.html", "find-lr.csv"


@dataclass(frozen=True)
class Step:
    """One step of the training."""

    rate: float
    """Learning rate of the backbone, as ``train.lr``."""
    loss: float
    """Of the batch, before the step."""
    smooth: float
    """Mean over the steps around it."""


@dataclass(frozen=True)
class Result:
    """Written as ``find-lr.json``."""

    recipe: str
    optimizer: str
    batch: int
    steps: tuple[Step, ...]
    ended: str
    """Why it ended, in words."""
    lowest: float
    """The rate at which the loss is lowest."""
    steepest: float
    """The rate at which the loss falls most for a step, up to there."""
    suggestion: float
    """A tenth of `lowest`."""
    fell: float
    """Share of the loss at the beginning by which it fell, 0..1; little says that the network hardly has to learn."""
