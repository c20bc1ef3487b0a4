"""All formats of a report, as files."""

from __future__ import annotations

import json
from pathlib import Path

from edgekit import choices
from edgekit.disk.atomic import write_text
from edgekit.report._schema import schema
from edgekit.report.contents import Report

SUFFIXES = {"html": "html", "markdown": "md", "json": "json", "csv": "csv"}
"""By module of this menu."""


def write(report: Report, folder: Path) -> None:
    """Write ``report.html``, ``.md``, ``.json``, ``.csv`` and the schema of the third, each beside and renamed."""
    for name, suffix in SUFFIXES.items():
        renderer = choices.pick("edgekit.report.formats", name, "report")
        write_text(folder / f"report.{suffix}", renderer.render(report))
    write_text(folder / "report.schema.json", json.dumps(schema(), indent=1))
