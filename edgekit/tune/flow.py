"""The search as one worker does it: take a trial, run the recipe with its values, record what came out.

Workers know of each other only by what the storage holds.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import optuna
from optuna import Study, Trial
from optuna.trial import TrialState

from edgekit import choices
from edgekit.config.recipe import ProfileSection, Recipe
from edgekit.config.tune_section import TuneSection
from edgekit.console import Console
from edgekit.data.listing import expand
from edgekit.disk import json_file, locks
from edgekit.disk.run_directory import ORDER
from edgekit.errors import Busy, DiskFull, EdgekitError, InputError, Paused, Shortfall, Unreached
from edgekit.pipeline import run as pipeline
from edgekit.pipeline.run import Job
from edgekit.tune import findings, leases, replay, report, storage
from edgekit.tune.leases import Lease, Locks, Signs
from edgekit.tune.port import Asked, Objective, Pruner, Sampler, Value
from edgekit.tune.records import Result, Target
from edgekit.tune.slots import ERROR, OF, SECONDS, SLOT, Queue, slots
from edgekit.tune.space import Space
from edgekit.types import Epoch

USUAL = 50
"""Trials of a search that names no number."""
POLL = 1.0
"""Seconds between two looks at the trials of other workers."""
JOURNAL, RESULT = "trials.journal", "tune.json"
ASKED = "edgekit"
"""Attribute of a study: what it was begun with."""


@dataclass
class Search:
    """One worker of one search.

    Args:
        job: recipe with [tune], devices, and the folder of all runs.
        console: progress.

    Raises:
        InputError: the search cannot be done: its space, its objectives, its storage, or what it was begun with.
    """

    job: Job
    console: Console
    section: TuneSection = field(init=False)
    space: Space = field(init=False)
    asked: Asked = field(init=False)
    targets: tuple[Target, ...] = field(init=False)
    count: int = field(init=False)
    study: Study = field(init=False)
    storage: str = field(init=False)
    pruner: str = field(init=False)

    def __post_init__(self) -> None:
        if self.job.recipe.tune is None:
            raise InputError("tune: needs a search space: a [tune.space] section in the recipe")
        self.section = self.job.recipe.tune
        self._began = time.monotonic()
        self._told: set[int] | None = None
        storage.silence()
        self.space = Space(self.job.recipe, self.section.space)
        wanted = tuple(dict.fromkeys(self.section.objective))
        sections = frozenset(key.partition(".")[0] for key in self.section.space)
        self.asked = Asked(self.space.first, sections, wanted, tuple(self.job.devices))
        self._objectives = [cast(Objective, _choice("objectives", word)) for word in wanted]
        self.targets = tuple(
            Target(name, word, each.UNIT, each.LARGEST)
            for word, each in zip(wanted, self._objectives, strict=True)
            for name in each.names(self.asked)
        )
        self._last = max((each.stage(self.asked) for each in self._objectives), key=ORDER.index)
        self._sampler = cast(Sampler, _choice("samplers", self.section.sampler))
        combinations = self._sampler.count(self.space)
        self.count = self.section.trials or combinations or USUAL
        if combinations is not None:
            self.count = min(self.count, combinations)
        self.pruner = self._pruner()
        self._pruning = cast(Pruner, _choice("pruners", self.pruner))
        self.study, self._lease = self._opened()

    def run(self) -> Result:
        """Work until every trial is over, or the time is.

        Returns:
            What was found by all workers; also written as ``tune.json``, and for people as ``tune.html`` and
            ``tune.md``.

        Raises:
            InputError: something in the recipe, the data or the environment cannot be used.
            Shortfall: no trial has a result.
        """
        try:
            try:
                self._work()
            finally:  # whatever stopped it: what was done is there to see
                result = self._keep()
        except optuna.exceptions.StorageInternalError as error:
            where = storage.shown(self.storage)
            raise Shortfall(f"tune: {where} was lost: {error}; run the same command again to go on") from error
        finally:
            self._lease.close()
        if not result.front and result.settled == result.asked:
            why = next((trial.why for trial in result.trials if trial.why), "")
            raise Shortfall(f"tune: no trial has a result; the first: {why}")
        return result

    def _keep(self) -> Result:
        """Write what was found so far; one worker at a time."""
        with locks.exclusive(self.job.out / ".report.lock"):
            result = findings.result(self)
            json_file.save(self.job.out / RESULT, result)
            replay.write(self.job.out, self.job.base, self.space, result)
            report.write(self.job.out, result)
        return result

    def _work(self) -> None:
        queue = Queue(self.study, self.count, self._lease, self.space.distributions, self._fixed)
        waits = False
        while not self._late():
            self._tell_news()
            trial = queue.take()
            if trial is not None:
                self._try(trial)
                waits = False
            elif queue.over:
                break
            else:
                if not waits:
                    self.console.say("tune: the last trials are with other workers; waiting, should one be killed")
                waits = True
                time.sleep(POLL)
        self._tell_news()

    def _late(self) -> bool:
        limit = self.section.time_budget
        return limit is not None and time.monotonic() - self._began > limit

    def _try(self, trial: Trial) -> None:
        """Run one trial, and record how it ended; what stops the search gives it back."""
        try:
            with self._lease.alive(trial):
                began = time.monotonic()
                state, values, why = self._ending(trial)
                trial.set_user_attr(SECONDS, round(time.monotonic() - began, 3))
                if values:
                    trial.set_user_attr(OF, [value.of for value in values])
                if why:
                    trial.set_user_attr(ERROR, why)
                self.study.tell(trial, [value.value for value in values] or None, state, skip_if_finished=True)
        except optuna.exceptions.UpdateFinishedTrialError:
            self.console.say(f"tune: this worker was taken for dead; trial {trial.user_attrs[SLOT]} is with another")
        except BaseException:
            with contextlib.suppress(optuna.exceptions.OptunaError):  # else others will find it without a worker
                leases.end(self.study, trial.number)
            raise

    def _ending(self, trial: Trial) -> tuple[TrialState, list[Value], str]:
        """How a trial ended: its state, its values if it is complete, and why it failed."""
        try:
            return TrialState.COMPLETE, self._measured(trial), ""
        except Paused:
            return TrialState.PRUNED, [], ""
        except (Unreached, DiskFull, optuna.exceptions.OptunaError):
            raise
        except Exception as error:
            if not self._is_result(error):
                raise
            said = (str(error).splitlines() or ["no message"])[0]
            unexpected = "" if isinstance(error, EdgekitError) else f"unexpected {type(error).__name__}: "
            return TrialState.FAIL, [], unexpected + said

    def _is_result(self, error: Exception) -> bool:
        """Whether an error is due to the values of the trial.

        That is so if a network fell short, or if other trials have gone well; else the recipe or the environment is
        to blame, and the next trial would end likewise.
        """
        if isinstance(error, Shortfall):
            return True
        return any(one.state == TrialState.COMPLETE for one in self.study.get_trials(deepcopy=False))

    def _measured(self, trial: Trial) -> list[Value]:
        number = trial.user_attrs[SLOT]
        self.study.sampler = self._sampler.sampler(_mixed(self.section.seed, number))
        recipe = self.space.made(self.space.settings(self.space.drawn(trial)))
        job = Job(
            _bare(recipe, bool(self._devices(recipe))),
            self.job.base,
            self.job.out / findings.folder(number),
            self._devices(recipe),
            after_epoch=self._watch(trial, recipe.train.epochs if recipe.train else 0),
            beside=self.job.out,
        )
        results = self._outcome(job).results
        return [v for each in self._objectives for v in each.values(self.asked, results, job.out)]

    def _devices(self, recipe: Recipe) -> dict[str, Any]:
        """Devices, if this trial needs any."""
        timed = "latency" in self.asked.objectives or (recipe.prune is not None and recipe.prune.latency is not None)
        return dict(self.job.devices) if timed else {}

    def _outcome(self, job: Job) -> pipeline.Outcome:
        """Run the pipeline, once no other process is in that folder: a worker taken for dead may yet be there."""
        while True:
            try:
                return pipeline.run(job, Console(quiet=True), self._last)
            except Busy as busy:
                self.console.say(f"tune: {busy}")
                time.sleep(POLL)

    def _watch(self, trial: Trial, last: int) -> Callable[[Epoch], None]:
        """What is done after each epoch: report its score, and stop a poor trial."""
        known = dict(self.study.get_trials(deepcopy=False)[trial.number].intermediate_values)

        def after(epoch: Epoch) -> None:
            if epoch.val_accuracy is None or len(self.targets) > 1:  # Optuna prunes by a single objective
                return
            if epoch.epoch not in known:  # else: by a worker that was killed
                trial.report(epoch.val_accuracy, epoch.epoch)
            if self._pruning.STOPS and epoch.epoch < last and trial.should_prune():
                raise Paused(epoch.val_accuracy, epoch.epoch, epoch.seconds)

        return after

    def _tell_news(self) -> None:
        """A line for each trial that has ended since the last time, whoever ran it."""
        over = [slot for slot in slots(self.study, self.count) if slot.result]
        if self._told is None:
            self._told = {slot.number for slot in over}
            if over:
                self.console.say(f"tune: {len(over)} of {self.count} trials are over; going on")
        for slot in over:
            if slot.number not in self._told:
                self._told.add(slot.number)
                self.console.say(f"tune: {findings.line(findings.trial(slot, self.space), self.targets)}")

    def _pruner(self) -> str:
        word, targets = self.section.pruner, [target.kind for target in self.targets]
        if word in (None, "none"):
            return word or ("median" if targets == ["accuracy"] else "none")
        if targets != ["accuracy"]:
            raise InputError(
                f'tune.pruner = "{word}": trials are stopped by their validation accuracy, which says nothing of '
                f'{" and ".join(self.asked.objectives)} together; leave it out, or set objective = ["accuracy"]'
            )
        assert word is not None
        return word

    def _fixed(self, number: int) -> dict[str, Any]:
        return self._sampler.fixed(self.space, number)

    def _opened(self) -> tuple[Study, Lease]:
        """The study, as it was begun, and this worker's way to show that it lives."""
        self.storage = word = self.section.storage or str(self.job.out / JOURNAL)
        made: optuna.storages.BaseStorage
        lease: Lease
        if storage.is_url(word):
            made = storage.database(word, self.section.grace)
            lease = Signs(made)
        else:
            path = expand(word, self.job.base) if self.section.storage else self.job.out / JOURNAL
            made = storage.journal(path)
            lease = Locks(path.with_name(f"{path.name}.workers"))
        try:
            return self._study(made), lease
        except BaseException:
            lease.close()
            raise

    def _study(self, made: optuna.storages.BaseStorage) -> Study:
        study = optuna.create_study(
            storage=made,
            study_name=self.section.study or self.job.recipe.name,
            directions=["maximize" if target.largest else "minimize" for target in self.targets],
            sampler=self._sampler.sampler(self.section.seed),
            pruner=self._pruning.pruner(),
            load_if_exists=True,
        )
        self._check_begun(study)
        return study

    def _check_begun(self, study: Study) -> None:
        """Refuse to mix trials that cannot be compared.

        Raises:
            InputError: the study was begun with another recipe, space or objective.
        """
        now = json.loads(json.dumps(self._begun()))
        if ASKED not in study.user_attrs:
            study.set_user_attr(ASKED, now)
        before = study.user_attrs[ASKED]
        changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        if changed:
            shown = "; ".join(f"{key} was {_shown(before, key)}, and is {_shown(now, key)}" for key in changed[:3])
            more = f" (and {len(changed) - 3} more)" if len(changed) > 3 else ""
            raise InputError(
                f'tune: the study "{study.study_name}" in {storage.shown(self.storage)} was begun with other settings: '
                f"{shown}{more}; set them back, or begin another: --study NAME, and another --out"
            )

    def _begun(self) -> dict[str, Any]:
        """What decides whether two trials can be compared, by key."""
        own = {"sampler": self.section.sampler, "objective": [target.name for target in self.targets]}
        found = {f"tune.{key}": value for key, value in own.items()}
        found |= {f'tune.space."{key}"': choice for key, choice in self.section.space.items()}
        parts = [(key, value) for key, value in _leaves(self.space.raw({}), "") if key not in self.section.space]
        return found | {key: value for key, value in parts if not key.startswith(("name", "description", "profile."))}


def _bare(recipe: Recipe, timed: bool) -> Recipe:
    """The recipe of a trial: without what decides nothing here."""
    profile = (recipe.profile or ProfileSection()).model_copy(update={"operators": False, "accuracy_images": 0})
    return recipe.model_copy(
        update={"verify": None, "tune": None, "fit": None, "sweep": None, "profile": profile if timed else None}
    )


def _choice(menu: str, word: str) -> Any:
    return choices.pick(f"edgekit.tune.{menu}", word, f"tune.{menu.removesuffix('s')}")


def _leaves(table: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in table.items():
        found += _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return found


def _shown(values: dict[str, Any], key: str) -> str:
    return json.dumps(values[key]) if key in values else "not there"


def _mixed(seed: int, number: int) -> int:
    """A seed for one trial, unrelated to those of its neighbours."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4])
