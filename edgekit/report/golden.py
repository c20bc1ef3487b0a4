"""What a report says about golden vectors that were replayed on the devices."""

from __future__ import annotations

from collections.abc import Iterable

from edgekit.measurements import Replay
from edgekit.report.contents import Report
from edgekit.report.markup import Markup, badge, fold, table, tag
from edgekit.report.svg import number


def of(report: Report, device: str) -> list[Replay]:
    """Replays on one device."""
    return [row for row in report.golden if row.device == device]


def summary(rows: Iterable[Replay]) -> str:
    """``match for 4 of 4 files and engines (differences up to 1 step, 3e-07 of the largest output)``."""
    rows = list(rows)
    there = [row for row in rows if row.vectors or row.problem]
    if not there:
        return "none in the bundle"
    held = [row for row in there if row.held]
    worst: dict[str, float] = {}
    for row in held:
        worst[row.unit] = max(worst.get(row.unit, 0.0), row.away or 0.0)
    far = ", ".join(away(value, unit) for unit, value in worst.items() if value)
    words = f"match for {len(held)} of {len(there)} files and engines"
    words += f" (differences up to {far})" if far else " (bit for bit)" if held else ""
    return words + (f"; none in the bundle for {len(rows) - len(there)} more" if len(there) < len(rows) else "")


def away(value: float, unit: str) -> str:
    """``1 step``, ``3.2e-07 of the largest output``, ``none``."""
    if not value:
        return "none"
    return f"{number(value, 2)} {unit[:-1] if (value, unit) == (1, 'steps') else unit}"


def replays(report: Report) -> Markup:
    """Every file and engine of every device; empty if nothing was replayed."""
    if not report.golden:
        return Markup("")
    cells = []
    for row in report.golden:
        state = badge("match", "passed") if row.held else badge("fail", "failed") if row.problem else "none"
        far = row.problem or ("—" if row.away is None else away(row.away, row.unit))
        where = f"{row.engine} {row.engine_version}"
        cells.append(
            (row.device, row.artifact, where, row.provider, state, far, str(row.vectors), str(row.images or "—"))
        )
    heads = ("device", "artifact", "engine", "provider", "", "largest difference", "vectors", "images decoded")
    listed = table(heads, cells, "Golden vectors replayed on the devices", words=6)
    lead = "Inputs stored in the bundle with the outputs computed where it was packed, run again on each device. "
    lead += "A file that exceeds its tolerance is not shipped there. Decoding images needs Pillow on the device."
    return fold("golden", "Golden vectors", summary(report.golden), tag("p", lead, class_="lead"), listed)
