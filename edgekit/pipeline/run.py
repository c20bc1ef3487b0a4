"""The stages in order: data, train, prune, lower, quantize, export, verify, bundle, profile, report.

Each stage (`edgekit.pipeline.stages`) reads the files of those before it and writes its own; nothing else passes
between them. A hash of its inputs decides whether a stage runs, so that heavy packages are imported only by stages
that run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.console import Console
from edgekit.disk import code_digest, json_file
from edgekit.disk.run_directory import ORDER, Done, RunDirectory
from edgekit.errors import Shortfall, missing
from edgekit.measurements import Failure, Profile, Verdict
from edgekit.pipeline import port, warnings
from edgekit.pipeline.port import S, Skip
from edgekit.pipeline.state import Job, Run
from edgekit.report.contents import StageRow

__all__ = ["Job", "Outcome", "run"]


@dataclass(frozen=True)
class Outcome:
    """What a run left behind."""

    out: Path
    stages: tuple[StageRow, ...]
    verdict: tuple[Verdict, ...]
    report: Path | None
    """Folder of the reports; None if the run stopped before them."""
    bundle: Path | None = None
    """The one file to ship; None if there is none."""
    lost: tuple[Failure, ...] = ()
    """What was not measured because a device was not reached or was lost during the run."""
    warnings: tuple[str, ...] = ()
    """Why its scores may mean little, one line each."""


def run(job: Job, console: Console, last: str = "report") -> Outcome:
    """Run every stage that the recipe names, up to `last`; unchanged ones are skipped.

    Raises:
        InputError: something in the recipe, the data or the environment cannot be used.
        Shortfall: the model or a device fell short; finished stages are kept for inspection.
    """
    directory = RunDirectory(job.out)
    with directory.locked():
        json_file.save(
            job.out / "recipe.json", {"base": str(job.base.resolve()), "recipe": job.recipe.model_dump(mode="json")}
        )
        state = Run(job, directory, console)
        for name in ORDER[: ORDER.index(last) + 1]:
            _do(name, port.stage(name), state)
    report = state.done.get("report")
    verdicts = state.read("report", "verdict.json", list[Verdict]) or []
    profile: Profile | None = state.read("profile", "profile.json", Profile)
    lost = tuple(failure for failure in profile.failures if failure.lost) if profile else ()
    return Outcome(
        job.out,
        tuple(state.rows),
        tuple(verdicts),
        report.path if report else None,
        state.bundle,
        lost,
        warnings.of(state),
    )


def _do(name: str, stage: port.Stage[Any], state: Run) -> None:
    """Skip a stage, reuse its results, or run it."""
    section = stage.section(state)
    if isinstance(section, Skip):
        state.rows.append(StageRow(name, 0.0, skipped=True, reason=section.reason))
        state.console.say(f"{name}: skipped, {section.reason}")
        return
    try:
        done = _stage(name, stage, section, state)
    except ModuleNotFoundError as error:
        raise missing(error, extra="compress", purpose=f"the {name} stage") from error
    except Shortfall as trouble:
        stage.failed(state, trouble)
        raise
    state.done[name] = done
    stage.after(state)
    reason = "; ".join(filter(None, ("nothing it depends on has changed" if done.cached else "", stage.remark(state))))
    state.rows.append(StageRow(name, done.seconds, cached=done.cached, reason=reason))
    state.console.say(f"{name}: {'unchanged' if done.cached else f'{done.seconds:.1f} s'}")


def _stage(name: str, stage: port.Stage[S], section: S, state: Run) -> Done:
    return state.directory.stage(
        name,
        {**stage.inputs(state, section), "code": code_digest.digest(f"edgekit.pipeline.stages.{name}")},
        lambda work: stage.build(state, section, work),
        before=lambda: state.console.say(f"{name} ..."),
        resumable=stage.RESUMABLE,
    )
