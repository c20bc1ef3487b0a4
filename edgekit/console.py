"""What a person sees while stages run: lines on stderr, and a progress bar if that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from edgekit.runtime.terminal import lines

T = TypeVar("T")
Advance = Callable[..., None]
"""Call as ``advance()``, ``advance(3)`` or ``advance(1, "loss 0.31")``."""


class Console:
    """Progress on stderr, so that stdout holds nothing but results."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self._drawn: Any = None
        """The `rich.progress.Progress` on the terminal; bars inside a bar are drawn below it."""

    def say(self, text: str) -> None:
        """One line, unless quiet."""
        if self.quiet:
            return
        if self._drawn is not None:
            self._drawn.console.print(lines(text), markup=False, highlight=False, soft_wrap=True)
        else:
            print(lines(text), file=sys.stderr, flush=True)

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Advance]:
        """Progress over `total` steps, with the time that has passed and that is left.

        Drawn only on a terminal and only if rich is installed. Bars may be nested.
        """
        if self._drawn is not None:
            with _task(self._drawn, title, total) as advance:
                yield advance
            return
        progress = None if self.quiet or not sys.stderr.isatty() else _progress()
        if progress is None:
            yield lambda steps=1, status="": None
            return
        self._drawn = progress
        try:
            with progress, _task(progress, title, total) as advance:
                yield advance
        finally:
            self._drawn = None

    def each(self, title: str, items: Sequence[T]) -> Iterator[T]:
        """The items, with a bar that names the one being worked on."""
        with self.bar(title, len(items)) as advance:
            for item in items:
                advance(0, str(item))
                yield item
                advance(1)


@contextmanager
def _task(progress: Any, title: str, total: int) -> Iterator[Advance]:
    task = progress.add_task(lines(title), total=total, status="")
    try:
        yield lambda steps=1, status="": progress.update(task, advance=steps, status=lines(status))
    finally:
        progress.remove_task(task)


def _progress() -> Any:
    """A `rich.progress.Progress` on stderr; None if rich is not installed."""
    try:
        from rich.console import Console as RichConsole
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
    except ModuleNotFoundError:
        return None
    return Progress(
        TextColumn("  {task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}", markup=False),
        console=RichConsole(stderr=True),
        transient=True,
    )
