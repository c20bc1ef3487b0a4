"""Contents of a report, as one frozen dataclass: every format prints it, and ``report.json`` is exactly it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edgekit.measurements import Failure, Machine, OperatorProfile, Profile, Replay, Timing, Verdict
from edgekit.scores import Accuracy, Evidence, Robustness
from edgekit.types import (
    TORCH_FP32,
    Artifact,
    Checkpoint,
    Finding,
    Index,
    Metrics,
    Pruning,
    Quantization,
    Rewrite,
    Split,
)

SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class StageRow:
    """How one stage of the run went."""

    name: str
    seconds: float
    cached: bool = False
    """True if nothing had changed and an earlier result was reused; `seconds` is what that result took to make."""
    skipped: bool = False
    reason: str = ""
    """Why it was skipped or reused, in a few words."""


@dataclass(frozen=True)
class Data:
    """The data set in numbers."""

    labels: tuple[str, ...]
    counts: dict[str, tuple[int, ...]]
    """Number of images per class, in the order of `labels`, by split (train, val, test)."""
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Source:
    """The bundle that the files come from."""

    file: str
    """Name of its file."""
    digest: str
    """SHA-256 of its manifest, which holds the hashes of everything else: the identity of the bundle."""
    signed_by: str | None
    """Public key, in base64, of the valid signature; says nothing about whether to trust that key."""
    edgekit: str | None
    """Version that packed it."""
    notes: tuple[str, ...] = ()
    """Facts that the verdict needs but the bundle lacks, and what is used instead."""


@dataclass(frozen=True)
class Provenance:
    """Everything needed to reproduce the files."""

    packages: dict[str, str]
    """Version of each package that mattered, python included."""
    seeds: dict[str, int]
    """By use: train, split, calibration."""
    hashes: dict[str, str]
    """SHA-256 of the recipe, the data index and the weights, by name."""
    git_commit: str | None = None
    """Commit of the working tree that holds the recipe, with ``+changes`` appended if it was not clean."""
    source: Source | None = None
    """None if the run itself made the files; otherwise, everything above is taken from the bundle."""


@dataclass(frozen=True)
class Report:
    """Everything a report shows. Times in milliseconds, shares 0..1, sizes in bytes unless a name says otherwise."""

    schema_version: Literal[1]
    name: str
    """Name of the recipe."""
    created: str
    """ISO 8601 time."""
    edgekit_version: str
    recipe: dict[str, Any]
    """As it ran, with defaults and overrides."""
    stages: tuple[StageRow, ...]
    checkpoint: Checkpoint | None
    data: Data | None
    artifacts: tuple[Artifact, ...]
    accuracy: tuple[Accuracy, ...]
    latency: tuple[Timing, ...]
    failures: tuple[Failure, ...]
    machines: dict[str, Machine]
    """By device name."""
    limits: dict[str, dict[str, float]]
    """By device name: p90_ms, size_mb and rss_mb, if set."""
    verdict: tuple[Verdict, ...]
    """One per device."""
    provenance: Provenance
    pruning: Pruning | None
    """None if nothing was pruned."""
    rewrites: tuple[Rewrite, ...]
    """Rewrites of the graph first, then those of the files."""
    quantization: Quantization | None
    """None if nothing was quantized."""
    operators: tuple[OperatorProfile, ...] = ()
    golden: tuple[Replay, ...] = ()
    """Golden vectors replayed on the devices; empty if none were."""
    warnings: tuple[str, ...] = ()
    """Why the scores may mean little, one line each."""
    robustness: tuple[Robustness, ...] = ()
    """Scores on corrupted images, torch fp32 first; empty if none were asked for."""
    evidence: tuple[Evidence, ...] = ()
    """What ``edgekit explain`` has found about these files; empty if it was not run."""

    @property
    def max_drop(self) -> float | None:
        """Points of top-1 that the recipe allows int8 to lose."""
        value = (self.recipe.get("quantize") or {}).get("max_drop")
        return None if value is None else float(value)

    @property
    def devices(self) -> tuple[str, ...]:
        """Every requested device, in the order of the verdicts; devices without one come last."""
        rows: tuple[Verdict | Timing | Failure, ...] = (*self.verdict, *self.latency, *self.failures)
        return tuple(dict.fromkeys(row.device for row in rows))

    @property
    def reference(self) -> Accuracy | None:
        """Test score of the float network in torch."""
        return next((row for row in self.accuracy if row.artifact == TORCH_FP32 and row.split == "test"), None)

    def artifact(self, name: str | None) -> Artifact | None:
        """The artifact with that id; None if there is none."""
        return next((artifact for artifact in self.artifacts if artifact.id == name), None)

    def score(self, artifact: str | None, engine: str | None, device: str) -> Accuracy | None:
        """Test score of an artifact in an engine: the one over the most images; on a tie, the one on `device`."""
        rows = [r for r in self.accuracy if (r.artifact, r.engine, r.split) == (artifact, engine, "test")]
        return max(rows, key=lambda row: (row.images, row.device == device), default=None)

    def timing(self, verdict: Verdict) -> Timing | None:
        """The timing that a verdict chose."""
        wanted = (verdict.device, verdict.artifact, verdict.engine, verdict.threads, verdict.kind)
        rows = (t for t in self.latency if (t.device, t.artifact, t.engine, t.threads, t.kind) == wanted)
        return next((t for t in rows if t.batch == 1), None)

    def shown_metrics(self) -> tuple[str, Metrics] | None:
        """Name and per-class scores of the model to show: the shipped file, else torch fp32 on the best split."""
        for verdict in self.verdict:
            score = self.score(verdict.artifact, verdict.engine, verdict.device) if verdict.artifact else None
            if score is not None and score.metrics is not None:
                return f"{score.artifact} on {score.engine}", score.metrics
        candidates = list(self.checkpoint.metrics) if self.checkpoint else []
        if self.reference is not None and self.reference.metrics is not None:
            candidates.append(self.reference.metrics)
        candidates.sort(key=lambda metrics: SPLITS.index(metrics.split))
        return ("torch fp32", candidates[-1]) if candidates else None


def gather(
    *,
    name: str,
    created: str,
    edgekit_version: str,
    recipe: Mapping[str, Any],
    stages: Iterable[StageRow],
    provenance: Provenance,
    checkpoint: Checkpoint | None = None,
    index: Index | None = None,
    artifacts: Iterable[Artifact] = (),
    accuracy: Iterable[Accuracy] = (),
    profile: Profile | None = None,
    limits: Mapping[str, Mapping[str, float | None]] | None = None,
    verdict: Iterable[Verdict] = (),
    pruning: Pruning | None = None,
    rewrites: Iterable[Rewrite] = (),
    quantization: Quantization | None = None,
    warnings: Iterable[str] = (),
    robustness: Iterable[Robustness] = (),
    evidence: Iterable[Evidence] = (),
) -> Report:
    """Combine the results of the stages into one report; a stage that did not run is simply absent.

    Args:
        name: name of the recipe.
        created: ISO 8601 time, given by the caller so that equal input gives an equal report.
        edgekit_version: version of the package that ran.
        recipe: the recipe as it ran, JSON-like.
        stages: in the order they ran.
        provenance: versions, seeds and hashes.
        checkpoint: the float network.
        index: the data set; only counts and findings are kept.
        artifacts: exported files.
        accuracy: verified scores.
        profile: timings of all devices.
        limits: bounds by device name; None values are dropped.
        verdict: results of `edgekit.verdict.rule.decide`, one per device.
        pruning: what the prune stage did.
        rewrites: which graph rewrites were applied, and why.
        quantization: how the quantized graph was made.
        warnings: why the scores may mean little.
        robustness: scores on corrupted images.
        evidence: what the networks look at.
    """
    bounds = {
        device: {k: float(v) for k, v in each.items() if v is not None} for device, each in (limits or {}).items()
    }
    return Report(
        schema_version=1,
        name=name,
        created=created,
        edgekit_version=edgekit_version,
        recipe=dict(recipe),
        stages=tuple(stages),
        checkpoint=checkpoint,
        data=summarise(index) if index is not None else None,
        artifacts=tuple(artifacts),
        accuracy=tuple(accuracy),
        latency=profile.timings if profile else (),
        failures=profile.failures if profile else (),
        machines=dict(profile.machines) if profile else {},
        limits={device: each for device, each in bounds.items() if each},
        verdict=tuple(verdict),
        provenance=provenance,
        pruning=pruning,
        rewrites=tuple(rewrites),
        quantization=quantization,
        operators=profile.operators if profile else (),
        golden=profile.golden if profile else (),
        warnings=tuple(warnings),
        robustness=tuple(robustness),
        evidence=tuple(evidence),
    )


def summarise(index: Index) -> Data:
    """Count the images of each class in each split."""
    counter = Counter((sample.split, sample.label) for sample in index.samples)
    classes = range(len(index.labels))
    counts: dict[str, tuple[int, ...]] = {split: tuple(counter[split, label] for label in classes) for split in SPLITS}
    return Data(labels=index.labels, counts=counts, findings=index.findings)
