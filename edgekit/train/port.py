"""What every schedule, loss and logger of the training offers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from edgekit.config.train_section import TrainSection


class Schedule(Protocol):
    """A module of ``edgekit/train/schedules``."""

    def factor(self, section: TrainSection, step: int, total: int, losses: Sequence[float] = ()) -> float:
        """Share of the peak rate at one step.

        Args:
            section: how long it rises, and what else a schedule takes from the recipe.
            step: from 0 to `total` - 1.
            total: steps of the whole run.
            losses: of the epochs so far: validation losses where there are any, else training losses.

        Returns:
            More than 0, at most 1.
        """


class Loss(Protocol):
    """A module of ``edgekit/train/losses``."""

    def criterion(self, section: TrainSection, weights: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
        """The loss of a batch.

        Args:
            section: the recipe's [train].
            weights: of the classes, float32 [classes]; their mean over the training images is 1.

        Returns:
            A function from logits, float [n, classes], and targets, int64 [n] or probabilities [n, classes], to a
            scalar: the mean over the images, each multiplied by the weight of its class.
        """


class Log(Protocol):
    """Where the values of each epoch go."""

    def log(self, epoch: int, values: dict[str, float]) -> None:
        """Send one epoch's values by name."""

    def close(self) -> None:
        """Finish."""


class Logger(Protocol):
    """A module of ``edgekit/train/loggers``."""

    def start(self, folder: Path, settings: dict[str, Any]) -> Log:
        """Begin a run.

        Args:
            folder: of the training; files go there.
            settings: of the run, by name.

        Raises:
            MissingPackage: its package is not installed.
            InputError: it cannot be used.
        """
