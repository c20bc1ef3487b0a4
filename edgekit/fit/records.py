"""What the search finds out: plain data, saved as JSON beside the runs. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgekit.measurements import Kind
from edgekit.types import PrunePlan


@dataclass(frozen=True)
class Net:
    """A whole network at one input size."""

    name: str
    """As ``model.name`` in a recipe."""
    side: int | tuple[int, int]
    """Of the input, in pixels, or (height, width)."""

    def __str__(self) -> str:
        sides = (self.side, self.side) if isinstance(self.side, int) else self.side
        return f"{self.name}, {' x '.join(str(side) for side in dict.fromkeys(sides))} px"


@dataclass(frozen=True)
class Measurement:
    """One file on one device, in the engine that is fastest there. Times in milliseconds."""

    device: str
    cpu: str
    engine: str
    engine_version: str
    format: str
    kind: Kind
    ms: float
    """The percentile that the budget is for."""
    high: float
    """Upper bound of its 95 % interval; `ms` for an estimate, whose error bar is the same for all networks."""
    low: float
    rss_mb: float
    """Peak resident set of the measuring process; 0 if unknown."""
    file_mb: float
    threads: int = 1


@dataclass(frozen=True)
class Prediction:
    """Of a latency model, in milliseconds, with its 95 % interval."""

    device: str
    ms: float
    low: float
    high: float


@dataclass(frozen=True)
class Trained:
    """The validation score after some epochs."""

    epochs: int
    accuracy: float
    """0..1"""
    seconds: float
    """That these epochs took, from the first on."""


@dataclass(frozen=True)
class Candidate:
    """A network that the search looks at."""

    id: str
    """Name of its folder."""
    net: Net
    how: str
    """How its widths were chosen, in words."""
    plan: PrunePlan | None
    """None: the whole network."""
    macs: int
    parameters: int
    predicted: tuple[Prediction, ...] = ()
    measured: tuple[Measurement, ...] = ()
    """Empty if its file was not timed."""
    trained: tuple[Trained, ...] = ()
    """After each rung that it reached."""
    dropped: str = ""
    """Why it was given up, in words; empty if it was not."""

    @property
    def accuracy(self) -> float | None:
        """Validation top-1 of the float network after the last rung."""
        return self.trained[-1].accuracy if self.trained else None


@dataclass(frozen=True)
class Spent:
    """What a search cost."""

    files: int = 0
    """Timed on each device, not counting those of the last, independent measurement."""
    device_seconds: float = 0.0
    training_seconds: float = 0.0
    """Of pruned candidates in all rungs and of whole networks, by this call or an earlier one."""
    seconds: float = 0.0


@dataclass(frozen=True)
class Result:
    """How a search ended, written as ``fit.json``."""

    max_ms: float
    percentile: int
    max_drop: float
    whole: Candidate
    """The recipe's own network, unpruned."""
    narrowest: Candidate | None
    """The fastest of the narrowest that pruning can reach, measured but not trained; None if it was not measured."""
    candidates: tuple[Candidate, ...] = ()
    """In the order in which they came up."""
    chosen: str = ""
    """`Candidate.id`; empty if there is none."""
    front: tuple[Candidate, ...] = ()
    """Of a dry run: one for each of several budgets, predicted."""
    shipped: tuple[Measurement, ...] = ()
    """The file that ships, measured in a session of its own after training."""
    top1: tuple[float | None, float | None] = (None, None)
    """Test top-1 of the whole float network, and of the file that ships."""
    holds: bool = False
    """Whether what ships meets every limit."""
    said: str = ""
    """The outcome in words."""
    models: dict[str, str] = field(default_factory=dict)
    """By device: what its times are predicted by, and how good that is."""
    spent: Spent = field(default_factory=Spent)
