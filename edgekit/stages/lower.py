"""Choose the graph rewrites that make int8 fast on the devices of this run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.stages._run import Run


def skip(run: Run) -> str:
    """Where nothing is to be chosen, or nowhere to measure."""
    return "not there yet"


def inputs(run: Run) -> dict[str, Any]:
    """The network and the devices."""
    return {"section": run.recipe.lower.model_dump(), "network": run.network.digest}


def build(run: Run, work: Path) -> None:
    """Write ``rewrites.json``."""
    raise NotImplementedError
