"""Frozen dataclasses of how well networks and files do on images. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgekit.types import Metrics, Split

EVIDENCE = "explain/evidence.json"
"""File of a run's folder that holds an `Explained`."""


@dataclass(frozen=True)
class Difference:
    """Points of top-1 that one model loses against another on the same images, and ends of an interval for it."""

    points: float
    low: float
    high: float

    @property
    def side(self) -> Literal["more", "less", ""]:
        """Whether more or less than nothing is lost; "" where the interval includes zero."""
        return "more" if self.low > 0 else "less" if self.high < 0 else ""


@dataclass(frozen=True)
class WorseImages:
    """Score of one model on the test images after one corruption."""

    corruption: str
    """A module of ``edgekit/verify/corruptions``."""
    level: int
    """1 (slight) to 3 (severe)."""
    top1: float
    """0..1"""
    excess: Difference | None = None
    """Lost from clean images to these, beyond what torch fp32 loses, with an interval so wide that all those of a file
    hold together in 95 % of the cases; None for torch fp32 itself."""


@dataclass(frozen=True)
class Robustness:
    """Scores of one model on clean and on corrupted images, an entry of ``robustness.json``."""

    artifact: str
    """`Artifact.id`, or ``torch-fp32``, which comes first."""
    engine: str
    split: Split
    images: int
    clean: float
    """Top-1 on the clean images, 0..1."""
    worse: tuple[WorseImages, ...]
    excess: Difference | None = None
    """The same over all corruptions and levels; None for torch fp32 itself."""


@dataclass(frozen=True)
class Accuracy:
    """Scores of one artifact, run by one engine on one device over one split."""

    artifact: str
    """`Artifact.id`, or ``torch-fp32`` / ``torch-int8`` for the references."""
    engine: str
    engine_version: str
    device: str
    split: Split
    images: int
    top1: float
    """0..1"""
    agreement: float
    """Share of images with the same top-1 class as torch fp32, 0..1."""
    lost: Difference | None = None
    """Against torch fp32, with a 95 % interval; None for torch fp32 itself, and on devices other than the host."""
    metrics: Metrics | None = None
    agreement_reference: float | None = None
    """Agreement with the torch model of the same precision (torch-int8 for an int8 file); on a device other than the
    host, with the same file on the host. The three values below use the same reference."""
    max_difference: float | None = None
    """Largest absolute difference from that reference over all outputs."""
    max_steps: float | None = None
    """The same in output quantization steps (int8 files only)."""
    within_one_step: float | None = None
    """Share of outputs at most one step away (int8 files only)."""
    sqnr_db: float | None = None
    """Signal-to-quantization-noise ratio of the logits against torch fp32, in dB."""
    passed: bool = True
    problem: str = ""
    """Why it did not pass, in one line."""
    diverges: str | None = None
    """First layer whose output differs from torch's, and by how much; None if nothing failed. Of a file with float
    operators that passed: how many of its layers round differently. On a device other than the host: first layer that
    differs from the same file on the host, whether it failed or just rounds differently."""


@dataclass(frozen=True)
class Evidence:
    """Whether a compressed network looks at what float looks at, as ``edgekit explain`` has found."""

    network: str
    """The artifact, or ``torch-pruned``."""
    engine: str
    correlation: float | None
    """Median over the images of Spearman's rank correlation between its evidence and float's; None if unknown."""
    judged: int
    """Images of float's class whose evidence repeats."""
    moved: int
    """Those of them that are right for another reason."""
    share: tuple[float, float, float] | None
    """`moved` of `judged`, and its 95 % interval; None if nothing could be judged."""


@dataclass(frozen=True)
class Explained:
    """What the report of a run says of an explanation, ``explain/evidence.json`` in its folder."""

    made_from: str
    """Digest of the stage that the files come from; what was found about others is not shown."""
    networks: tuple[Evidence, ...]
