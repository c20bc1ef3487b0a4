"""Take channels out of the float network, then recover what that cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.provenance import versions
from edgekit.stages._run import Run

RESUMABLE = True


def skip(run: Run) -> str:
    """Where the recipe does not ask for it."""
    return "" if run.recipe.prune else "the recipe has no [prune] section"


def inputs(run: Run) -> dict[str, Any]:
    """The section, the network and the images."""
    section = run.recipe.prune
    assert section is not None
    return {
        "section": section.model_dump(),
        "train": run.digest("train"),
        "data": run.digest("data"),
        "versions": versions("torch", "torch-pruning"),
    }


def build(run: Run, work: Path) -> None:
    """Write a checkpoint and ``pruning.json``."""
    raise NotImplementedError
