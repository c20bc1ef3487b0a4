"""Find, clean and split the images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.config.recipe import DataSection
from edgekit.data import class_names, index_file
from edgekit.errors import Shortfall
from edgekit.pipeline import warnings
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
    """Write ``index.json``, ``labels.txt`` and, if cleaning found anything, ``findings.csv``."""
    index = index_file.build(section, run.job.base, work, run.console)
    index_file.save(index, work)
    if "data.order" in (order := class_names.described(section, index.labels)):
        run.console.say(f"  {order}")
    if index.findings:
        listed = run.directory.folder("data") / index_file.FINDINGS
        run.console.say(f"  cleaning {index_file.summary(index.findings)}; listed in {listed}")


def failed(run: Run, trouble: Shortfall) -> None:
    """Nothing to do."""


def after(run: Run) -> None:
    """Warn now, before anything is trained; the run does so again at its end."""
    if not run.done["data"].cached:
        for text in warnings.sizes(run):
            run.console.say(f"  warning: {text}")


def remark(run: Run) -> str:
    """The order of the classes."""
    file = run.done["data"].path / index_file.LABELS
    labels = file.read_text(encoding="utf-8").split("\n")[:-1] if file.is_file() else []
    return class_names.described(section(run), labels) if labels else ""
