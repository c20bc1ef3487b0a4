"""The reports of a sweep: ``sweep.html``, ``sweep.md``, ``sweep.csv`` and ``sweep.json``."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgekit.disk import json_file
from edgekit.disk.atomic import write_text
from edgekit.report.formats.csv import field
from edgekit.report.formats.markdown import table, text
from edgekit.report.svg import megabytes, ms, percent, threads
from edgekit.sweep import _page, findings
from edgekit.sweep.records import Combination, Result, Row

PAGE, TEXT, TABLE, DATA = "sweep.html", "sweep.md", "sweep.csv", "sweep.json"
COLUMNS = (
    "device", "kind", "artifact", "engine", "engine_version", "threads", "p50_ms", "p50_low_ms", "p50_high_ms",
    "file_bytes", "split", "images", "top1", "top1_low", "top1_high", "front", "cpu",
)  # fmt: skip
"""Of the CSV, after the number, the state, the reason and the values of a combination. Times in ms, shares 0..1."""


def write(folder: Path, result: Result) -> None:
    """Write all four.

    Args:
        folder: of the sweep.
        result: what was found.
    """
    created = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    json_file.save(folder / DATA, result)
    write_text(folder / TABLE, sheet(result))
    write_text(folder / TEXT, markdown(result, created))
    write_text(folder / PAGE, _page.render(result, created))


def sheet(result: Result) -> str:
    """One line for each combination on each device; one without a result has one line (RFC 4180, line feeds)."""
    out, keys = io.StringIO(), list(result.varied)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("combination", "state", "why", *keys, *COLUMNS))
    for one in result.combinations:
        head = [one.number, one.state, one.why, *findings.settings(one, keys)]
        rows = [_values(result, row) for row in result.rows if row.combination == one.number]
        for values in rows or [{}]:
            writer.writerow([field(value) for value in (*head, *(values.get(name) for name in COLUMNS))])
    return out.getvalue()


def _values(result: Result, row: Row) -> dict[str, Any]:
    machine = (result.machines or {}).get(row.device)
    low, high = row.p50_ci or (None, None)
    return {
        **{name: getattr(row, name, None) or None for name in COLUMNS},
        "p50_low_ms": low,
        "p50_high_ms": high,
        "file_bytes": row.bytes,
        "top1": row.top1,
        "top1_low": row.top1_ci[0],
        "top1_high": row.top1_ci[1],
        "front": row.front,
        "cpu": machine.cpu if machine else None,
    }


def markdown(result: Result, created: str) -> str:
    """The outcome as GitHub-flavoured Markdown; names are escaped.

    Args:
        result: of the sweep.
        created: when, in words.
    """
    blocks = [f"## edgekit sweep: {text(result.name)}", text(result.said)]
    for device, kind in result.places:
        blocks += [f"**{text(findings.where(device, kind))}**", _front(result, result.at(device, kind))]
        blocks += [text(findings.machine(result, device))]
    blocks += [_others(result), text(result.method)]
    blocks.append(f"<sub>edgekit {text(result.edgekit)}, {text(created)}</sub>")
    return "\n\n".join(block for block in blocks if block) + "\n"


def _front(result: Result, rows: Sequence[Row]) -> str:
    keys, by_number = list(result.varied), {one.number: one for one in result.combinations}
    heads = ("combination", *map(text, keys), "ships", "top-1", "p50 ms", "size")
    cells = [
        (
            f"**{row.combination}**" if row.front else f"{row.combination}",
            *map(text, findings.settings(by_number[row.combination], keys)),
            text(
                f"{row.artifact}{f' in {row.engine} {row.engine_version}, {threads(row.threads)}' * bool(row.engine)}"
            ),
            f"{percent(row.top1)} ({percent(row.top1_ci[0], 1)} to {percent(row.top1_ci[1], 1)})",
            "—" if row.p50_ms is None else ms(row.p50_ms) + _ends(row.p50_ci),
            megabytes(row.bytes),
        )
        for row in rows
    ]
    return table(heads, cells, words=2 + len(keys))


def _ends(ends: tuple[float, float] | None) -> str:
    return f" ({ms(ends[0])} to {ms(ends[1])})" if ends else ""


def _others(result: Result) -> str:
    """Combinations that have no result, and why."""
    return "\n".join(f"- {_line(one)}" for one in result.combinations if one.state != "done" or one.why)


def _line(one: Combination) -> str:
    return text(f"{one.number} {one.state}{f': {one.why}' if one.why else ''} ({findings.words(one)})")
