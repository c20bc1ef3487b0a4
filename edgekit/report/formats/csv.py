"""``report.csv``: one line per timing, for spreadsheets."""

from __future__ import annotations

import csv
import io
from typing import Any

from edgekit.measurements import Replay, Timing
from edgekit.report.contents import Report

SUFFIX = "csv"
COLUMNS = (
    "device", "artifact", "precision", "engine", "engine_version", "provider", "threads", "batch", "kind",
    "p50_ms", "p50_low_ms", "p50_high_ms", "p90_ms", "p90_low_ms", "p90_high_ms", "p99_ms", "p99_low_ms",
    "p99_high_ms", "min_ms", "mean_ms", "first_ms", "load_ms", "end_to_end_ms", "energy_mj", "energy", "rss_bytes",
    "model_bytes", "file_bytes", "instructions", "top1", "agreement", "images", "samples", "rounds",
    "outliers", "stable", "ships", "cpu", "governor", "edgekit", "golden", "sampling", "reference",
    "load_average", "cpu_pressure", "cpu_steal", "undecided",
)  # fmt: skip
"""In this order; a value that was not measured is an empty field. Times in ms, shares 0..1. "golden" says whether the
golden vectors match there, "sampling" what a sample is if not a single inference, "reference" whether a row is PyTorch,
for comparison only, "undecided" whether times on its device are too uncertain to tell which file is the fastest."""


def render(report: Report) -> str:
    """The timings as CSV (RFC 4180, but lines end in a line feed), one header line first.

    Text that a spreadsheet would take for a formula gets a leading apostrophe.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for timing in report.latency:
        row = _row(report, timing)
        writer.writerow([field(row[name]) for name in COLUMNS])
    return out.getvalue()


def _row(report: Report, t: Timing) -> dict[str, Any]:
    file, score = report.artifact(t.artifact), report.score(t.artifact, t.engine, t.device)
    machine = report.machines.get(t.device)
    row: dict[str, Any] = {name: getattr(t, name, None) for name in COLUMNS}
    for name in ("p50", "p90", "p99"):
        ends = getattr(t, f"{name}_ci") or (None, None)
        row[f"{name}_low_ms"], row[f"{name}_high_ms"] = ends
    if not t.samples:  # an estimate has a p50 and its error bar
        empty = ("p90_ms", "p99_ms", "min_ms", "mean_ms", "first_ms", "load_ms", "rss_bytes", "rounds", "load_average")
        row |= dict.fromkeys(empty)
    row |= {
        "precision": file.precision if file else None,
        "end_to_end_ms": t.steps.total_ms if t.steps else None,
        "file_bytes": file.bytes if file else None,
        "top1": score.top1 if score else None,
        "agreement": score.agreement if score else None,
        "images": score.images if score else None,
        "samples": len(t.samples),
        "ships": any(report.timing(verdict) is t for verdict in report.verdict),
        "cpu": machine.cpu if machine else None,
        "governor": machine.governor if machine else None,
        "edgekit": report.edgekit_version,
        "undecided": any(verdict.undecided for verdict in report.verdict if verdict.device == t.device),
        "golden": next((g.held for g in report.golden if _key(g) == _key(t) and (g.vectors or g.problem)), None),
    }
    return row


def _key(row: Timing | Replay) -> tuple[str, str, str]:
    return row.artifact, row.engine, row.device


def field(value: Any) -> Any:
    """A value as a spreadsheet takes it: text that it would take for a formula gets an apostrophe."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return str(value).lower() if isinstance(value, bool) else value
