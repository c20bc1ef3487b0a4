"""What every stage offers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from edgekit import choices
from edgekit.errors import Shortfall
from edgekit.pipeline.state import Run

S = TypeVar("S")
"""What of the recipe a stage works by, most often its section."""


@dataclass(frozen=True)
class Skip:
    """A stage is not run."""

    reason: str
    """For people, e.g. "the recipe has no [verify] section"."""


class Stage(Protocol[S]):
    """A module of ``edgekit/pipeline/stages``. All but `build` is light: it runs for unchanged stages, too."""

    RESUMABLE: bool
    """Whether `build` can go on from what a killed run with the same inputs left in its folder."""

    def section(self, run: Run) -> S | Skip:
        """What of the recipe it works by, or why it is skipped."""

    def inputs(self, run: Run, section: S) -> dict[str, Any]:
        """Everything its files depend on, as JSON-like data; while it is the same, the stage does not run again."""

    def build(self, run: Run, section: S, work: Path) -> None:
        """Write its files.

        Args:
            run: with the stages before this one done.
            section: from `section`.
            work: an empty folder, or (`RESUMABLE`) what a killed run left.

        Raises:
            InputError: something in the recipe, the data or the environment cannot be used.
            Shortfall: the model or a device fell short; the files stay for inspection.
        """

    def failed(self, run: Run, trouble: Shortfall) -> None:
        """Called when `build` has raised Shortfall."""

    def after(self, run: Run) -> None:
        """Called when its files are there, whether it ran now or before."""

    def remark(self, run: Run) -> str:
        """What the report says beside it, once its files are there; "" for nothing."""


def stage(name: str, where: str = "stage") -> Stage[Any]:
    """The module of ``edgekit/pipeline/stages`` with that name.

    Raises:
        InputError: there is no such stage.
    """
    return cast(Stage[Any], choices.pick("edgekit.pipeline.stages", name, where))
