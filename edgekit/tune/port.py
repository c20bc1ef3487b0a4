"""What the menus of a search offer: samplers, pruners and objectives."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from edgekit.config.recipe import Recipe
from edgekit.pipeline.results import Results
from edgekit.tune.records import Unit
from edgekit.tune.space import Space


class Sampler(Protocol):
    """A module of ``edgekit/tune/samplers``."""

    def sampler(self, seed: int) -> BaseSampler:
        """What draws the values of one trial.

        Args:
            seed: of this trial alone, so that the draws do not depend on which worker makes them.
        """

    def count(self, space: Space) -> int | None:
        """How many trials there can be; None if there is no end.

        Raises:
            InputError: the space cannot be searched this way.
        """

    def fixed(self, space: Space, number: int) -> dict[str, Any]:
        """The parameters of a trial, if its number alone decides them; else empty."""


class Pruner(Protocol):
    """A module of ``edgekit/tune/pruners``."""

    STOPS: bool
    """Whether it ever stops a trial."""

    def pruner(self) -> BasePruner:
        """What decides after each epoch whether a trial goes on, by its validation accuracy."""


@dataclass(frozen=True)
class Asked:
    """What objectives depend on before a trial has run."""

    recipe: Recipe
    """With the first value of every key."""
    sections: Collection[str]
    """Sections of the recipe that the search varies."""
    objectives: Collection[str]
    devices: Collection[str]
    """Names of the devices to measure on."""

    @property
    def precision(self) -> Literal["int8", "fp32"]:
        """Of the files that are weighed and timed: int8 where the recipe makes int8 files."""
        export = self.recipe.export
        return "int8" if self.recipe.quantize and export and "int8" in export.precisions else "fp32"


class Value(NamedTuple):
    """A number, and what it was measured on, in words."""

    value: float
    of: str


class Objective(Protocol):
    """A module of ``edgekit/tune/objectives``."""

    UNIT: Unit
    LARGEST: bool
    """Whether more is better."""

    def names(self, asked: Asked) -> list[str]:
        """The targets that it stands for.

        Raises:
            InputError: this recipe cannot give it.
        """

    def stage(self, asked: Asked) -> str:
        """The last stage that it needs."""

    def values(self, asked: Asked, results: Results, run: Path) -> list[Value]:
        """One for each of `names`.

        Args:
            asked: as before.
            results: of the trial's run.
            run: its directory.

        Raises:
            InputError: the data cannot give it.
            Shortfall: this trial could not be measured.
        """
