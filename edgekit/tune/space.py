"""The search space: which keys of a recipe vary, over which values, and the recipe of one trial."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna import Trial
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from edgekit.config import varied
from edgekit.config.recipe import Recipe
from edgekit.config.toml import validate
from edgekit.errors import InputError

WHERE = Path("tune.space")
"""What messages about values name as their source."""


@dataclass(frozen=True)
class Space:
    """The keys that vary.

    Args:
        recipe: what is varied.
        asked: values by key: lists, or ranges as in `edgekit.config.tune_section`.

    Raises:
        InputError: a key that no recipe has, or a value that this recipe cannot have.
    """

    recipe: Recipe
    asked: Mapping[str, Any]
    distributions: dict[str, BaseDistribution] = field(init=False)

    def __post_init__(self) -> None:
        for key in self.asked:
            varied.check(key, WHERE)
        first = {key: choice[0] if isinstance(choice, list) else choice["low"] for key, choice in self.asked.items()}
        self.made(first)
        for key, choice in self.asked.items():
            for value in choice[1:] if isinstance(choice, list) else [choice["high"]]:
                self.made({**first, key: value})
        found = {key: self._distribution(key, choice, first) for key, choice in self.asked.items()}
        object.__setattr__(self, "distributions", found)

    @property
    def first(self) -> Recipe:
        """The recipe with the first value of every key."""
        return self.made({k: c[0] if isinstance(c, list) else c["low"] for k, c in self.asked.items()})

    def drawn(self, trial: Trial) -> dict[str, Any]:
        """The parameters of a trial, drawn by the sampler of its study unless they are fixed."""
        found: dict[str, Any] = {}
        for key, each in self.distributions.items():
            if isinstance(each, CategoricalDistribution):
                found[key] = trial.suggest_categorical(key, each.choices)
            elif isinstance(each, IntDistribution):
                found[key] = trial.suggest_int(key, each.low, each.high, step=each.step, log=each.log)
            elif isinstance(each, FloatDistribution):
                found[key] = trial.suggest_float(key, each.low, each.high, step=each.step, log=each.log)
        return found

    def settings(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Values by key of the recipe, from what a sampler has drawn."""
        lists = {key: {_label(value): value for value in c} for key, c in self.asked.items() if isinstance(c, list)}
        return {key: lists[key][value] if key in lists else value for key, value in parameters.items()}

    def made(self, settings: Mapping[str, Any]) -> Recipe:
        """The recipe of one trial.

        Raises:
            InputError: the recipe cannot have these values together.
        """
        return validate(Recipe, self.raw(settings), WHERE)

    def raw(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The same as a table, with the keys alone that are not left to their defaults."""
        return varied.table(self.recipe, settings, WHERE)

    def _distribution(self, key: str, choice: Any, first: Mapping[str, Any]) -> BaseDistribution:
        if isinstance(choice, list):
            return CategoricalDistribution([_label(value) for value in choice])
        low, high, step, log = choice["low"], choice["high"], choice.get("step"), choice.get("log", False)
        whole = all(isinstance(number, int) for number in (low, high, *([] if step is None else [step])))
        if whole and not self._takes(key, low + 0.5, first):
            return IntDistribution(low, high - (high - low) % (step or 1), log, step or 1)
        if step is not None:
            high = low + step * int((high - low) / step + 1e-9)
        return FloatDistribution(low, high, log, step)

    def _takes(self, key: str, value: float, first: Mapping[str, Any]) -> bool:
        """Whether a key may have that value."""
        try:
            self.made({**first, key: value})
        except InputError:
            return False
        return True


def _label(value: Any) -> bool | int | float | str | None:
    """What stands for a value in the storage, which takes no lists."""
    return value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value, sort_keys=True)
