"""The stages in order: data, train, prune, lower, quantize, export, verify, bundle, profile, report.

Each stage (`edgekit.pipeline.stages`) reads the files of those before it and writes its own; nothing else passes
between them. A hash of its inputs decides whether a stage runs, so that heavy packages are imported only by stages
that run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.console import Console
from edgekit.disk import code_digest, json_file
from edgekit.disk.atomic import write_bytes
from edgekit.disk.run_directory import ORDER, Done, RunDirectory
from edgekit.errors import DiskFull, Paused, Shortfall, missing
from edgekit.measurements import Failure, Profile, Verdict
from edgekit.pipeline import early, port, warnings
from edgekit.pipeline.port import S, Skip
from edgekit.pipeline.results import Results
from edgekit.pipeline.results import read as read_results
from edgekit.pipeline.state import Job, Run
from edgekit.report.contents import StageRow

__all__ = ["Job", "Outcome", "run"]
RECIPE = "recipe.json"


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
    results: Results = field(default_factory=Results)


def run(job: Job, console: Console, last: str = "report") -> Outcome:
    """Run every stage that the recipe names, up to `last`; unchanged ones are skipped.

    Raises:
        InputError: something in the recipe, the data or the environment cannot be used.
        Shortfall: the model or a device fell short; finished stages are kept for inspection.
        Paused: training stopped where the job says.
    """
    directory = RunDirectory(job.out, job.beside)
    with directory.locked():
        state = Run(job, directory, console)
        start = _Start(state, last)
        try:
            for name in ORDER[: ORDER.index(last) + 1]:
                _do(name, port.stage(name), state, start)
            start.accept()
        except (Shortfall, DiskFull, Paused):  # the input was accepted
            raise
        except Exception:  # a crash, too: what new settings broke must not break the next run
            start.take_back()
            raise
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
        read_results(state),
    )


class _Start:
    """The moment at which the first stage begins: until then nothing is changed, and input can be refused early.

    ``recipe.json`` is what the next command in this directory goes on with. It is replaced once the input has passed
    the early checks, and put back if a stage refuses it after all, unless something was trained with it by then.
    """

    def __init__(self, state: Run, last: str) -> None:
        self._state, self._last = state, last
        self._file = state.job.out / RECIPE
        self._before = self._file.read_bytes() if self._file.is_file() else None
        self._accepted = self._counted = False

    def begin(self, name: str) -> None:
        """Called before each stage that runs."""
        if not self._accepted:
            early.check(self._state, name, self._last)
            self.accept()
        if not self._counted and "data" in self._state.done:
            early.check_images(self._state, name, self._last)
            self._counted = True
        self._state.console.say(f"{name} ...")

    def accept(self) -> None:
        """Make the recipe that of the directory."""
        if not self._accepted:
            job = self._state.job
            json_file.save(self._file, {"base": str(job.base.resolve()), "recipe": job.recipe.model_dump(mode="json")})
            self._accepted = True

    def take_back(self) -> None:
        """Put the earlier recipe back, if any."""
        made = {row.name for row in self._state.rows if not row.cached and not row.skipped}
        if not self._accepted or made - {"data"}:
            return
        if self._before is None:
            self._file.unlink()
        else:
            write_bytes(self._file, self._before)


def _do(name: str, stage: port.Stage[Any], state: Run, start: _Start) -> None:
    """Skip a stage, reuse its results, or run it."""
    section = stage.section(state)
    if isinstance(section, Skip):
        state.rows.append(StageRow(name, 0.0, skipped=True, reason=section.reason))
        state.console.say(f"{name}: skipped, {section.reason}")
        return
    try:
        done = _stage(name, stage, section, state, start)
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


def _stage(name: str, stage: port.Stage[S], section: S, state: Run, start: _Start) -> Done:
    return state.directory.stage(
        name,
        {**stage.inputs(state, section), "code": code_digest.digest(f"edgekit.pipeline.stages.{name}")},
        lambda work: stage.build(state, section, work),
        before=lambda: start.begin(name),
        resumable=stage.RESUMABLE,
    )
