"""All formats of a report, as files."""

from __future__ import annotations

import json
from pathlib import Path

from edgekit import choices
from edgekit.disk.atomic import write_text
from edgekit.report._schema import schema
from edgekit.report.contents import Report
from edgekit.report.port import format_called


def write(report: Report, folder: Path) -> None:
    """Write ``report.html``, ``.md``, ``.json``, ``.csv`` and the JSON schema, each atomically."""
    for name in choices.names("edgekit.report.formats"):
        made = format_called(name)
        write_text(folder / f"report.{made.SUFFIX}", made.render(report))
    write_text(folder / "report.schema.json", json.dumps(schema(), indent=1))
