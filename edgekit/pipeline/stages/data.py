"""Find, clean and split the images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.data import index_file
from edgekit.pipeline.provenance import versions
from edgekit.pipeline.state import Run


def skip(run: Run) -> str:
    """Never."""
    return ""


def inputs(run: Run) -> dict[str, Any]:
    """The section and the files that it names."""
    section, base = run.recipe.data, run.job.base
    return {
        "section": section.model_dump(exclude={"input"}),
        "base": str(base.resolve()),
        "files": index_file.fingerprint(section, base),
        "versions": versions("pillow", "numpy"),
    }


def build(run: Run, work: Path) -> None:
    """Write ``index.json``."""
    index_file.save(index_file.build(run.recipe.data, run.job.base, work, run.console), work)
