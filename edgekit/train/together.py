"""What the first of several processes wants to have trained, and how the others take part."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgekit.config.recipe import Recipe
from edgekit.console import Console
from edgekit.errors import EdgekitError
from edgekit.train import crew, loop
from edgekit.types import Checkpoint, Index


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


def follow(together: crew.Crew) -> None:
    """Take part in what the first process trains, until it needs no help any more."""
    while (order := together.tell()) is not None:
        with tempfile.TemporaryDirectory() as work:
            try:
                loop.train(
                    order.recipe, order.index, order.root, order.base, Path(work), Console(quiet=True), crew=together
                )
            except crew.Lost:
                raise
            except EdgekitError:  # the first process had the same error, and says so
                continue


@contextmanager
def leading(together: crew.Crew) -> Iterator[None]:
    """Let the others go at the end, unless one of them is lost or this one is interrupted, as then they are, too."""
    yield
    if together.lost is None:
        together.tell(None)
