"""What a person sees while stages run: lines on stderr, and a progress bar if that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edgekit.runtime.terminal import lines

Advance = Callable[..., None]
"""Call as ``advance()``, ``advance(3)`` or ``advance(1, "loss 0.31")``."""


class Console:
    """Progress on stderr, so that stdout holds nothing but results."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet

    def say(self, text: str) -> None:
        """One line, unless quiet."""
        if not self.quiet:
            print(lines(text), file=sys.stderr, flush=True)

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Advance]:
        """Progress over `total` steps; drawn only on a terminal and only if rich is installed."""
        progress = None
        if not self.quiet and sys.stderr.isatty():
            try:
                from rich.console import Console as RichConsole
                from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
            except ModuleNotFoundError:
                pass
            else:
                progress = Progress(
                    TextColumn("  {task.description}", markup=False),
                    BarColumn(),
                    MofNCompleteColumn(),
                    TimeRemainingColumn(),
                    TextColumn("{task.fields[status]}", markup=False),
                    console=RichConsole(stderr=True),
                    transient=True,
                )
        if progress is None:
            yield lambda steps=1, status="": None
            return
        with progress:
            task = progress.add_task(lines(title), total=total, status="")
            yield lambda steps=1, status="": progress.update(task, advance=steps, status=lines(status))
