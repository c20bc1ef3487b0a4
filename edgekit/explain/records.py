"""What an explanation finds; ``explain.json`` is exactly a `Result`. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgekit.types import Split

JSON, PAGE, TABLE = "explain.json", "explain.html", "explain.csv"
"""Names of the files that are written."""
Map = tuple[tuple[float, ...], ...]
"""Rows of values, the top one first."""
Chosen = Literal["sample", "changed", "wrong"]


@dataclass(frozen=True)
class Areas:
    """Areas below the probability of a class, 0..1, while an image is shown or hidden, patch by patch."""

    insertion: float
    """The larger, the better the order in which patches are shown."""
    deletion: float
    """The smaller, the better the order in which they are hidden."""

    @property
    def score(self) -> float:
        """Insertion less deletion: how well the order names what the network looks at."""
        return self.insertion - self.deletion


@dataclass(frozen=True)
class Look:
    """What a compressed network makes of one image. All but `predicted` is about the class that float predicts."""

    network: str
    predicted: str
    """Its own class."""
    probability: float
    """0..1"""
    drop: float
    """Probability that float gives the class beyond that."""
    evidence: Map
    """Log odds lost by hiding each patch."""
    correlation: float
    """Of its evidence with float's: Spearman's rho, -1..1; 0 if no patch matters to it more than another."""
    own: Areas
    """Of the order of its own evidence, in this network."""
    by_float: Areas
    """Of the order of float's evidence, in this network."""
    moved: bool = False
    """Right for another reason: the class of float, but not its evidence."""


@dataclass(frozen=True)
class Image:
    """One test image, and what float makes of it."""

    path: str
    label: str
    """Its true class."""
    predicted: str
    """Float's class."""
    probability: float
    """That float gives it, 0..1."""
    chosen: tuple[Chosen, ...]
    """Why it is here; only the sample counts in shares and means."""
    evidence: Map
    """Log odds that float loses by hiding each patch."""
    repeat: float
    """Correlation of that with float's evidence on a grid shifted by half a patch."""
    clear: bool
    """Whether that is more than chance: else nothing can be said of the image."""
    own: Areas
    """Of the order of float's evidence, in float."""
    looks: tuple[Look, ...]
    grad_cam: Map = ()
    """Of float's last feature map; empty if it was left out."""


@dataclass(frozen=True)
class Summary:
    """One compressed network over many images."""

    network: str
    engine: str
    version: str
    top1: float
    """Over all images that were looked at, 0..1; likewise `agreement` with float, and the mean `drop`."""
    agreement: float
    drop: float
    correlation: float | None
    """Median over the sample, as in `Look`. This and what follows is None without an image of float's class."""
    lowest: float | None
    own: Areas | None
    """Means over the sample of the areas in `Look`."""
    by_float: Areas | None
    gap: tuple[float, float, float] | None
    """Mean of ``own.score - by_float.score``, and its 95 % interval: how much better its own map explains it. None
    without two images."""
    judged: int
    """Images of the sample with float's class whose evidence repeats."""
    moved: int
    """Those of them that are right for another reason."""
    share: tuple[float, float, float] | None
    """`moved` of `judged`, and its 95 % interval; None if nothing could be judged."""


@dataclass(frozen=True)
class Yardstick:
    """How alike float's evidence is to itself, which is what files are measured with."""

    repeat: float | None
    """Median of `Image.repeat` over the sample."""
    limit: float | None
    """The evidence of a file that correlates less than this, and less than float's own repeats, has moved. None if no
    image is clear."""
    detects: float | None
    """Share of pairs of sampled images whose evidence, if it were swapped, would be found to have moved, 0..1."""


@dataclass(frozen=True)
class Result:
    """Everything; only the pictures are not in it."""

    schema_version: Literal[1]
    name: str
    """Of the recipe."""
    split: Split
    available: int
    """Images in it."""
    looked_at: int
    """Those that every network has classified."""
    sampled: int
    """Those of them that were drawn at random and explained."""
    seed: int
    patches: tuple[int, int]
    """Down and across."""
    top1: float
    """Of float, over all images that were looked at, 0..1."""
    own: Areas
    """Means over the sample of float's own areas."""
    yardstick: Yardstick
    networks: tuple[Summary, ...]
    images: tuple[Image, ...]
    grad_cam: str
    """The layer whose output it is computed on, or why it was left out."""
    notes: tuple[str, ...]
    seconds: float
