"""The teacher of the [distill] section, for the stages that learn from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.pipeline.state import Run
from edgekit.types import Checkpoint

if TYPE_CHECKING:
    from torch import nn


def inputs(run: Run) -> dict[str, Any]:
    """What a stage depends on: the section, and which network that is; nothing without the section.

    Raises:
        InputError: there is no such teacher.
    """
    section = run.recipe.distill
    if section is None:
        return {}
    from edgekit.train import teacher

    return {"distill": section.model_dump(), "teacher": teacher.digest(section.teacher, run.job.base)}


def network(run: Run, student: Checkpoint) -> nn.Module | None:
    """The teacher, for the images and classes of the student; None without the section.

    Raises:
        InputError: it cannot be used.
        MissingPackage: the engine of its file is not installed.
    """
    section = run.recipe.distill
    if section is None:
        return None
    from edgekit.train import teacher

    return teacher.load(section.teacher, run.job.base, student.input, student.labels)
