"""A sweep as one worker does it: take a combination, run it as far as its phase goes, write down how it ended.

Workers know of each other only by the files of the sweep. What a combination has done is in its run directory, a lock
says that somebody works on it, and stages that several combinations share are taken over from the run that did them
(`edgekit.disk.run_directory`). So a worker that dies leaves nothing that another one could not go on with.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from edgekit.config import varied
from edgekit.console import Console
from edgekit.disk import json_file, locks
from edgekit.disk.run_directory import ORDER, RunDirectory
from edgekit.errors import Busy, DiskFull, EdgekitError, InputError, Shortfall, Unreached
from edgekit.pipeline import run as pipeline
from edgekit.pipeline.run import Job
from edgekit.sweep import plan as planning
from edgekit.sweep import space
from edgekit.sweep.plan import Phase, Plan
from edgekit.sweep.records import Progress
from edgekit.sweep.space import Combination

PROGRESS = "progress.json"
"""Of one combination, in its run directory."""
LOCKS = ".locks"
"""Folder of a lock for each combination, and one for the whole sweep."""
COMPUTING = "computing"
"""That one: shared by all who compute, and held by the one who takes times."""
POLL = 0.5
"""Seconds between two looks at what other workers do."""
AFTER = "report"
"""The stage with which a combination is over."""


@dataclass
class Sweep:
    """One worker of one sweep.

    Args:
        job: recipe, devices, and the folder of all runs.
        listed: values by key of the recipe.
        console: progress.

    Raises:
        InputError: a key that no recipe has, no combination that can run, or none that makes verified files.
    """

    job: Job
    listed: Mapping[str, Sequence[Any]]
    console: Console
    combinations: tuple[Combination, ...] = field(init=False)
    plans: dict[int, Plan] = field(init=False)
    phases: tuple[Phase, ...] = field(init=False)

    def __post_init__(self) -> None:
        bare = self.job.recipe.model_copy(update=dict.fromkeys(varied.SEARCHES))
        found = space.combinations(bare, self.listed)
        for section in ("export", "verify"):
            if not any(getattr(one.recipe, section) for one in found if one.recipe):
                raise InputError(f"sweep: compares verified files, but the recipe has no [{section}] section; add one")
        self.plans = {}
        self.combinations = tuple(self._planned(one) for one in found)
        if not self.plans:
            raise InputError(f"sweep: no combination can run; the first: {self.combinations[0].why}")
        self.phases = planning.phases(list(self.plans.values()))
        self._told: dict[int, str] = {}

    @property
    def runnable(self) -> list[Combination]:
        """Combinations that there is something to run of."""
        return [one for one in self.combinations if one.recipe]

    def progress(self, one: Combination) -> Progress:
        """How far a combination is."""
        key = self.plans[one.number].key
        with contextlib.suppress(InputError):
            found = json_file.load(self.job.out / one.folder / PROGRESS, Progress)
            if found.key == key:
                return found
        return Progress(key)

    def begin(self, retry: bool) -> None:
        """Make the folders, and forget what has to be tried again.

        Args:
            retry: whether failed combinations are.
        """
        (self.job.out / LOCKS).mkdir(parents=True, exist_ok=True)
        for one in self.runnable:
            before = self.progress(one)
            if before.lost:
                self._keep(one, replace(before, reached=planning.LAST, lost=""))
            elif before.why and retry:
                self._keep(one, Progress(before.key, before.reached, before.seconds))
        self._told = {one.number: self._state(one) for one in self.runnable}
        over = sum(map(bool, self._told.values()))
        if over:
            self.console.say(f"sweep: {over} of {len(self.runnable)} runs are over; going on")

    def work(self) -> None:
        """Work until every combination is over.

        Raises:
            Unreached: no device could be reached.
            DiskFull: there is no room for more files.
        """
        for phase in self.phases:
            (self._alone if phase.alone else self._together)(phase)

    def left(self, phase: Phase) -> list[Combination]:
        """Combinations that have not ended a phase, and have not failed."""
        self._tell_news()
        rank, found = ORDER.index(phase.last), []
        for one in self.runnable:
            now = self.progress(one)
            if not now.why and (not now.reached or ORDER.index(now.reached) < rank):
                found.append(one)
        return found

    def ready(self, waiting: Sequence[Combination], running: Sequence[Combination], phase: Phase) -> list[Combination]:
        """Those that would not wait for a stage that another one is doing."""
        busy = {key for one in running for key in self.plans[one.number].missing(phase.last)}
        return [one for one in waiting if not self.plans[one.number].missing(phase.last) & busy]

    def run(self, one: Combination, phase: Phase) -> None:
        """Run a combination, which nobody else does, to the end of a phase.

        Raises:
            Unreached: no device could be reached.
            DiskFull: there is no room for more files.
        """
        if why := self.same_failure(one):
            self.fail(one, why)
        else:
            self._keep(one, attempt(self.plans[one.number].job, self.progress(one), phase.last, self.console))

    def fail(self, one: Combination, why: str) -> None:
        """Write down that there is no use in running a combination."""
        self._keep(one, replace(self.progress(one), why=why))

    def same_failure(self, one: Combination) -> str:
        """Why a combination will fall short: another one did, in a stage that they share; else empty."""
        mine = self.plans[one.number].stages
        for other in self.runnable:
            failed = self.progress(other)
            key = self.plans[other.number].stages.get(failed.stage)  # none: it did not fall short, or was measured
            if key is not None and key == mine.get(failed.stage):
                return f"as {other.number}, which shares its {failed.stage} stage: {failed.why}"
        return ""

    def _together(self, phase: Phase) -> None:
        """Run combinations beside other workers, until none is left."""
        while left := self.left(phase):
            with self._taken(left, phase) as one:
                if one is None:
                    time.sleep(POLL)
                elif not self._is_over(one, phase):  # else another worker was quicker
                    with locks.shared(self._lock(COMPUTING)):
                        self.run(one, phase)

    def _alone(self, phase: Phase) -> None:
        """Run what is left one after another, while no other worker computes; or wait for the one that does."""
        while self.left(phase):
            lock = locks.take(self._lock(COMPUTING))
            if lock is None:
                time.sleep(POLL)
                continue
            with lock:
                left = self.left(phase)
                if left:
                    self.console.say(f"sweep: {phase.last} of {len(left)} runs, one at a time, as it takes times")
                for one in left:
                    self.run(one, phase)
                    self._tell_news()

    @contextlib.contextmanager
    def _taken(self, left: Sequence[Combination], phase: Phase) -> Iterator[Combination | None]:
        """One of the combinations, held; None if all are with others, or wait for what these do."""
        held: dict[int, IO[bytes] | None] = {one.number: locks.take(self._lock(one.folder)) for one in left}
        running = [one for one in left if held[one.number] is None]
        mine = next(iter(self.ready([one for one in left if held[one.number]], running, phase)), None)
        for number, lock in held.items():
            if lock is not None and (mine is None or number != mine.number):
                lock.close()
        try:
            yield mine
        finally:
            if mine is not None and (lock := held[mine.number]):
                lock.close()

    def _is_over(self, one: Combination, phase: Phase) -> bool:
        return one not in self.left(phase)

    def _planned(self, one: Combination) -> Combination:
        """The same, with its plan made; or left out if its data cannot be read."""
        if one.recipe is None:
            return one
        try:
            self.plans[one.number] = planning.plan(self._job(one))
        except InputError as error:
            return replace(one, recipe=None, why=str(error).splitlines()[0])
        return one

    def _job(self, one: Combination) -> Job:
        assert one.recipe is not None
        return Job(one.recipe, self.job.base, self.job.out / one.folder, self.job.devices, beside=self.job.out)

    def _lock(self, name: str) -> Path:
        return self.job.out / LOCKS / name

    def _keep(self, one: Combination, progress: Progress) -> None:
        folder = self.job.out / one.folder
        folder.mkdir(exist_ok=True)
        json_file.save(folder / PROGRESS, progress)

    def _state(self, one: Combination) -> str:
        """How a combination ended; empty if it has not."""
        now = self.progress(one)
        return f"failed: {now.why}" if now.why else "done" if now.reached == AFTER else ""

    def _tell_news(self) -> None:
        """A line for each combination that has ended since the last time, whoever ran it."""
        for one in self.runnable:
            state = self._state(one)
            if state and state != self._told.get(one.number):
                self._told[one.number] = state
                over = sum(map(bool, self._told.values()))
                self.console.say(f"sweep: {over} of {len(self.runnable)}: {one}: {state}")


def attempt(job: Job, before: Progress, last: str, console: Console) -> Progress:
    """Run a combination up to a stage.

    Args:
        job: its run.
        before: how far it was.
        last: the stage.
        console: told if somebody else runs in its folder, which is waited for.

    Returns:
        How far it is now, or why it failed.

    Raises:
        Unreached: no device could be reached.
        DiskFull: there is no room for more files.
    """
    began = time.monotonic()

    def now(**changes: str) -> Progress:
        seconds = round(before.seconds + time.monotonic() - began, 3)
        return replace(before, seconds=seconds, worker=f"{socket.gethostname()}, process {os.getpid()}", **changes)

    try:
        outcome = _unless_busy(lambda: pipeline.run(job, Console(quiet=True), last), console)
    except (Unreached, DiskFull):
        raise
    except Exception as error:
        said = (str(error).splitlines() or ["no message"])[0]
        unexpected = "" if isinstance(error, EdgekitError) else f"unexpected {type(error).__name__}: "
        return now(why=unexpected + said, stage=_fell_short(job) if isinstance(error, Shortfall) else "")
    lost = "; ".join(dict.fromkeys(f"{each.device}: {each.reason}" for each in outcome.lost))
    return now(reached=last, lost=lost)


def _unless_busy(work: Callable[[], pipeline.Outcome], console: Console) -> pipeline.Outcome:
    while True:
        try:
            return work()
        except Busy as busy:
            console.say(f"sweep: {busy}")
            time.sleep(POLL)


def _fell_short(job: Job) -> str:
    """The stage that has just fallen short: its files lie beside."""
    directory = RunDirectory(job.out)
    folders = ((name, directory.folder(name)) for name in ORDER)
    return next((name for name, folder in folders if folder.with_name(f"{folder.name}.failed").is_dir()), "")
