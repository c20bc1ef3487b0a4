"""Which trial a worker runs next, so that each of N is finished exactly once, whoever is killed at whatever moment.

The search has N numbered slots. An attempt at a slot is a trial of Optuna's whose attribute `SLOT` is written with it,
in one step. It counts unless it ended without a result: its worker was killed or interrupted. A slot is over once an
attempt has a result, and open while none counts. What is to be done follows from the trials in the storage alone, so
there is no step between two records at which a kill could lose anything.

Two workers may open the same slot at the same moment. The storage numbers trials in the order in which they appear, and
an attempt runs only if none with a lower number counts. An attempt that ended never counts again, so at most one has a
result. Nor does it run if an earlier one drew parameters that it lacks: the slot keeps what was drawn first.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna import Study, Trial
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from edgekit.tune import leases
from edgekit.tune.leases import Lease

SLOT, ERROR = "slot", "error"
"""Attributes of a trial: its slot, and why it fell short, which is a result."""
OF, SECONDS = "of", "seconds"
"""Attributes of a result: what its values were measured on, and how long it took."""


@dataclass(frozen=True)
class Slot:
    """One trial of the search."""

    number: int
    attempts: tuple[FrozenTrial, ...]
    """In the order of the storage."""

    @property
    def result(self) -> FrozenTrial | None:
        """The attempt that has one."""
        return next((one for one in self.attempts if counts(one) and one.state.is_finished()), None)

    @property
    def current(self) -> FrozenTrial | None:
        """The attempt that counts: waiting, running or over."""
        return next((one for one in self.attempts if counts(one)), None)

    @property
    def fullest(self) -> FrozenTrial | None:
        """The attempt with the most parameters: what the next one begins with."""
        return max(self.attempts, key=lambda one: (len(one.params), one.number), default=None)


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial is waiting, running, or over with a result."""
    return trial.state != TrialState.FAIL or ERROR in trial.user_attrs


def slots(study: Study, count: int) -> list[Slot]:
    """The slots of a search, and those of an earlier call with more trials that were begun."""
    found: dict[int, list[FrozenTrial]] = {number: [] for number in range(count)}
    for trial in study.get_trials(deepcopy=False):
        if SLOT in trial.user_attrs:
            found.setdefault(int(trial.user_attrs[SLOT]), []).append(trial)
    return [Slot(number, tuple(attempts)) for number, attempts in sorted(found.items())]


@dataclass(frozen=True)
class Queue:
    """The slots as one worker sees them.

    Args:
        study: what is recorded.
        count: how many slots the search has.
        lease: of this worker.
        distributions: what each parameter is drawn from.
        fixed: parameters of a slot that its number decides; empty if they are drawn.
    """

    study: Study
    count: int
    lease: Lease
    distributions: Mapping[str, BaseDistribution]
    fixed: Callable[[int], dict[str, Any]]

    def take(self) -> Trial | None:
        """The next attempt, which is this worker's to run; None if all slots are over or with other workers."""
        while True:
            self.lease.bury(self.study)
            mine = slots(self.study, self.count)[: self.count]
            waiting = any(slot.current and slot.current.state == TrialState.WAITING for slot in mine)
            if not waiting and not self._open(mine):
                return None
            trial = self._ask()
            if not self._runs(trial):
                leases.end(self.study, trial.number)
                continue
            try:
                self.lease.sign(trial)
                return trial
            except optuna.exceptions.UpdateFinishedTrialError:  # this process was frozen, and others took it for dead
                continue

    @property
    def over(self) -> bool:
        """Whether every slot has a result."""
        return all(slot.result for slot in slots(self.study, self.count)[: self.count])

    def _open(self, mine: Sequence[Slot]) -> bool:
        """Add an attempt at the first open slot, with the parameters that an earlier one had; False if none is open."""
        slot = next((slot for slot in mine if slot.current is None), None)
        if slot is None:
            return False
        before = slot.fullest
        parameters = before.params if before else self.fixed(slot.number)
        self.study.add_trial(
            optuna.create_trial(
                state=TrialState.WAITING,
                params=parameters,
                distributions={key: self.distributions[key] for key in parameters},
                user_attrs={SLOT: slot.number},
                intermediate_values=before.intermediate_values if before else None,
            )
        )
        return True

    def _ask(self) -> Trial:
        with warnings.catch_warnings():  # Optuna gives signs of life in a loop of its own; here `Lease.alive` does
            warnings.filterwarnings("ignore", "Heartbeat of storage", UserWarning)
            return self.study.ask()

    def _runs(self, trial: Trial) -> bool:
        number = trial.user_attrs.get(SLOT)  # none: another worker took what was waiting
        if number is None or number >= self.count:
            return False
        before = [one for one in slots(self.study, self.count)[number].attempts if one.number < trial.number]
        return not any(counts(one) or len(one.params) > len(trial.params) for one in before)
