"""What a run found out, read back from the files of its stages: what each command prints at its end."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from edgekit.measurements import Machine, Profile, Timing
from edgekit.pipeline.state import Run
from edgekit.scores import Accuracy
from edgekit.types import Artifact, Checkpoint, Pruning


@dataclass(frozen=True)
class Results:
    """Empty where a stage did not run."""

    checkpoint: Checkpoint | None = None
    """The float network that the files come from."""
    pruning: Pruning | None = None
    artifacts: tuple[Artifact, ...] = ()
    accuracy: tuple[Accuracy, ...] = ()
    """Of torch and of the files, on this machine."""
    latency: tuple[Timing, ...] = ()
    machines: dict[str, Machine] = field(default_factory=dict)
    """By device name."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without samples and per-class scores, which the report has."""
        trained = self.checkpoint.metrics if self.checkpoint else ()
        return {
            "metrics": [{"split": m.split, "images": m.images, "top1": m.accuracy} for m in trained],
            "artifacts": [asdict(artifact) for artifact in self.artifacts],
            "accuracy": [{k: v for k, v in asdict(row).items() if k != "metrics"} for row in self.accuracy],
            "latency": [{k: v for k, v in asdict(row).items() if k != "samples"} for row in self.latency],
        }


def read(run: Run) -> Results:
    """The results of the stages that have been done."""
    profile: Profile | None = run.read("profile", "profile.json", Profile)
    return Results(
        checkpoint=run.checkpoint,
        pruning=run.read("prune", "pruning.json", Pruning),
        artifacts=tuple(run.artifacts),
        accuracy=tuple(run.read("verify", "accuracy.json", list[Accuracy]) or ()),
        latency=profile.timings if profile else (),
        machines=profile.machines if profile else {},
    )
