"""What the first of several processes wants to have trained, and how the others take part."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Timer

from edgekit.config.recipe import Recipe
from edgekit.console import Console
from edgekit.errors import EdgekitError
from edgekit.train import crew, loop
from edgekit.types import Checkpoint, Index

SAME_ERROR = 20.0
"""Seconds in which the first process meets an error that another one has met."""


@dataclass(frozen=True)
class Order:
    """The arguments of `edgekit.train.loop.train`; all processes find the data under the same paths."""

    recipe: Recipe
    index: Index
    root: Path
    base: Path


def train(
    recipe: Recipe,
    index: Index,
    root: Path,
    base: Path,
    work: Path,
    console: Console,
    after_epoch: loop.After | None = None,
) -> Checkpoint:
    """As `edgekit.train.loop.train`, with all processes that torchrun has started, if it has."""
    together = crew.current()
    together.tell(Order(recipe, index, root, base))
    return loop.train(recipe, index, root, base, work, console, after_epoch, together)


@dataclass(frozen=True)
class End:
    """No more orders."""


def follow(together: crew.Crew, alone: Callable[[EdgekitError], None]) -> None:
    """Take part in what the first process trains, until it needs no help any more.

    Args:
        together: the processes.
        alone: called, in another thread, with an error of this process that the first one does not have, too.
    """
    alarm = Timer(0, lambda: None)
    while isinstance(order := _order(together, alarm), Order):
        with tempfile.TemporaryDirectory() as work:
            try:
                loop.train(
                    order.recipe, order.index, order.root, order.base, Path(work), Console(quiet=True), crew=together
                )
            except crew.Lost:
                raise
            except EdgekitError as error:  # as a rule the first process has it, too, and says so
                alarm = Timer(min(SAME_ERROR, together.timeout / 2), alone, [error])
                alarm.daemon = True
                alarm.start()


def _order(together: crew.Crew, alarm: Timer) -> Order | End:
    """What to do next; there may be more for those that are still in a training that this process had to leave."""
    while not isinstance(said := together.tell(), Order | End):
        continue
    alarm.cancel()
    return said


@contextmanager
def leading(together: crew.Crew) -> Iterator[None]:
    """Let the others go at the end, unless one of them is lost or this one is interrupted, as then they are, too."""
    yield
    if together.lost is None:
        together.tell(End())
