"""Find, clean and split the images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.config.recipe import DataSection
from edgekit.data import index_file
from edgekit.errors import Shortfall
from edgekit.pipeline.provenance import versions
from edgekit.pipeline.state import Run

RESUMABLE = False


def section(run: Run) -> DataSection:
    """Always runs."""
    return run.recipe.data


def inputs(run: Run, section: DataSection) -> dict[str, Any]:
    """The section and the files that it names."""
    base = run.job.base
    return {
        "section": section.model_dump(exclude={"input", "pad"}),
        "base": str(base.resolve()),
        "files": index_file.fingerprint(section, base),
        "versions": versions("pillow", "numpy"),
    }


def build(run: Run, section: DataSection, work: Path) -> None:
    """Write ``index.json``."""
    index_file.save(index_file.build(section, run.job.base, work, run.console), work)


def failed(run: Run, trouble: Shortfall) -> None:
    """Nothing to do."""


def after(run: Run) -> None:
    """Nothing to do."""


def remark(run: Run) -> str:
    """Nothing to say."""
    return ""
