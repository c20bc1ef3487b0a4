"""Find, clean and split the images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.data import _index
from edgekit.provenance import versions
from edgekit.stages._run import Run


def skip(run: Run) -> str:
    """Never."""
    return ""


def inputs(run: Run) -> dict[str, Any]:
    """The section and the files that it names."""
    section, base = run.recipe.data, run.job.base
    return {
        "section": section.model_dump(exclude={"input"}),
        "base": str(base.resolve()),
        "files": _index.fingerprint(section, base),
        "versions": versions("pillow", "numpy"),
    }


def build(run: Run, work: Path) -> None:
    """Write ``index.json``."""
    _index.save(_index.build(run.recipe.data, run.job.base, work, run.console), work)
