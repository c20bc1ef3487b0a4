"""Choose what to ship on each device, and write the reports."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgekit import __version__, checkpoint_file
from edgekit.config.recipe import Recipe
from edgekit.data import index_file
from edgekit.disk import json_file
from edgekit.errors import Shortfall
from edgekit.measurements import Profile
from edgekit.pipeline import warnings
from edgekit.pipeline.provenance import git_commit
from edgekit.pipeline.state import Run
from edgekit.report import files
from edgekit.report.contents import Provenance, gather
from edgekit.scores import EVIDENCE, Accuracy, Evidence, Explained, Robustness
from edgekit.types import Pruning, Quantization, Rewrite
from edgekit.verdict import rule as verdict

RESUMABLE = False


def section(run: Run) -> Recipe:
    """All of the recipe; always runs."""
    return run.recipe


def inputs(run: Run, section: Recipe) -> dict[str, Any]:
    """The recipe, the devices' limits, every stage before, and the provenance."""
    return {
        "recipe": section.model_dump(mode="json"),
        "limits": [(name, device.limits.model_dump()) for name, device in run.job.devices.items()],  # in that order
        "stages": {name: done.digest for name, done in run.done.items()},
        "packages": run.packages,
        "git_commit": git_commit(run.job.base),
        "evidence": [asdict(row) for row in _evidence(run)],
    }


def build(run: Run, section: Recipe, work: Path) -> None:
    """Write the reports and ``verdict.json``."""
    artifacts = run.artifacts
    accuracy = run.read("verify", "accuracy.json", list[Accuracy]) or []
    on_devices = run.read("profile", "accuracy.json", list[Accuracy]) or []
    profile = run.read("profile", "profile.json", Profile)
    quantize = run.recipe.quantize
    verdicts = [
        verdict.decide(
            name,
            artifacts,
            # Devices ran only some of the images: enough to refuse a file there, not to score it.
            [*accuracy, *(row for row in on_devices if not row.passed)],
            profile.timings if profile else (),
            device.limits,
            quantize.max_drop if quantize else None,
            machine=profile.machines.get(name) if profile else None,
        )
        for name, device in run.job.devices.items()
    ]
    report = gather(
        name=run.recipe.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        edgekit_version=__version__,
        recipe=run.recipe.model_dump(mode="json"),
        stages=run.rows,
        provenance=_provenance(run),
        checkpoint=checkpoint_file.load(run.network.path),
        index=index_file.load(run.done["data"].path),
        artifacts=artifacts,
        accuracy=[*accuracy, *on_devices],
        profile=profile,
        limits={name: device.limits.bounds for name, device in run.job.devices.items()},
        verdict=verdicts,
        pruning=run.read("prune", "pruning.json", Pruning),
        rewrites=_rewrites(run),
        quantization=run.read("quantize", "quantization.json", Quantization),
        warnings=warnings.of(run),
        robustness=run.read("verify", "robustness.json", list[Robustness]) or [],
        evidence=_evidence(run),
    )
    json_file.save(work / "verdict.json", verdicts)
    files.write(report, work)


def failed(run: Run, trouble: Shortfall) -> None:
    """Nothing to do."""


def after(run: Run) -> None:
    """Nothing to do."""


def remark(run: Run) -> str:
    """Nothing to say."""
    return ""


def _evidence(run: Run) -> list[Evidence]:
    """What ``edgekit explain`` has found about these very files; empty if it was not run."""
    file = run.job.out / EVIDENCE
    if not file.is_file():
        return []
    found = json_file.load(file, Explained)
    made_from = (run.done.get("export") or run.network).digest
    return list(found.networks) if found.made_from == made_from else []


def _rewrites(run: Run) -> list[Rewrite]:
    """Rewrites of the graph, then those of the files."""
    return [row for stage in ("lower", "export") for row in run.read(stage, "rewrites.json", list[Rewrite]) or []]


def _provenance(run: Run) -> Provenance:
    hashes = {f"stage {name}": done.digest for name, done in run.done.items()}
    quantization = run.read("quantize", "quantization.json", Quantization)
    if quantization:
        hashes["calibration images"] = quantization.calibration_sha256
    hashes |= {artifact.path: artifact.sha256 for artifact in run.artifacts}
    return Provenance(run.packages, run.seeds, hashes, git_commit(run.job.base))
