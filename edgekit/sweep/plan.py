"""What each combination of a sweep has to do, and what it shares with others, known before anything runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.console import Console
from edgekit.disk import code_digest
from edgekit.disk.run_directory import ORDER, RECORD, Done, RunDirectory
from edgekit.pipeline import port
from edgekit.pipeline.port import Skip
from edgekit.pipeline.stages import lower
from edgekit.pipeline.state import Job, Run

LAST = "bundle"
"""The last stage that makes files; the ones after it measure them."""


@dataclass(frozen=True)
class Plan:
    """The stages of one combination.

    Args:
        job: its run.
        stages: by name, in order, a key that two combinations share where that stage does the same for both.
        key: of all that its results depend on.
        timed: stages whose outcome depends on times that are taken on a device.
    """

    job: Job
    stages: dict[str, str]
    key: str
    timed: frozenset[str]

    def missing(self, last: str) -> set[str]:
        """Keys of the stages up to `last` that have not ended in its run directory."""
        directory = RunDirectory(self.job.out)
        return {key for name, key in self.stages.items() if _is_due(name, last) and not _ended(directory, name)}


def plan(job: Job) -> Plan:
    """Ask each stage what it depends on, with keys of the stages before it in place of their results.

    Raises:
        InputError: the data cannot be read.
    """
    run = Run(job, RunDirectory(job.out), Console(quiet=True))
    stages: dict[str, str] = {}
    for name in ORDER[: ORDER.index(LAST) + 1]:
        stage = port.stage(name)
        section = stage.section(run)
        if isinstance(section, Skip):
            continue
        code = code_digest.digest(f"edgekit.pipeline.stages.{name}")
        stages[name] = _digest([name, code, stage.inputs(run, section)])
        run.done[name] = Done(name, Path("/nonexistent"), stages[name], 0.0, cached=False)
    devices = [[name, device.model_dump(mode="json")] for name, device in job.devices.items()]
    key = _digest([list(stages.values()), job.recipe.model_dump(mode="json"), devices])
    return Plan(job, stages, key, _timed(run))


def shared(plans: Sequence[Plan]) -> list[dict[str, int]]:
    """For each plan, by stage, the place of the first plan that does the same."""
    first: dict[str, int] = {}
    return [
        {name: first.setdefault(key, place) for name, key in each.stages.items()} for place, each in enumerate(plans)
    ]


@dataclass(frozen=True)
class Phase:
    """Part of a sweep that all combinations go through before the next one begins."""

    last: str
    """The stage with which it ends."""
    alone: bool = False
    """One process does it, run after run, while no other computes: it takes times on this machine."""


def phases(plans: Sequence[Plan]) -> tuple[Phase, ...]:
    """The phases of a sweep: files first, times last.

    A stage before the last one that takes times on this machine is a phase of its own.
    """
    here = any(device.reach.by == "local" for each in plans for device in each.job.devices.values())
    alone = {name for each in plans for name in each.timed} if here else set()
    names = [name for name in ORDER[: ORDER.index(LAST) + 1] if any(name in each.stages for each in plans)]
    found: list[Phase] = []
    for name in names:
        phase = Phase(name, name in alone)
        if found and not phase.alone and not found[-1].alone:
            found.pop()
        found.append(phase)
    return (*found, Phase("report", any(each.job.devices for each in plans)))


def anywhere(plans: Iterable[Plan]) -> str:
    """The last stage whose outcome does not depend on the machine that runs it."""
    timed = {name for each in plans for name in each.timed}
    return next((ORDER[ORDER.index(name) - 1] for name in ORDER if name in timed), LAST)


def _timed(run: Run) -> frozenset[str]:
    names = set()
    if run.recipe.prune is not None and run.recipe.prune.latency is not None and run.job.devices:
        names.add("prune")
    if not lower.why_not_timed(run):
        names |= {"lower", "export"}
    return frozenset(names)


def _is_due(name: str, last: str) -> bool:
    return ORDER.index(name) <= ORDER.index(last)


def _ended(directory: RunDirectory, name: str) -> bool:
    return (directory.folder(name) / RECORD).is_file()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
