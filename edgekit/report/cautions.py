"""What happened while measuring that makes numbers doubtful, in sentences."""

from __future__ import annotations

from collections.abc import Iterable

from edgekit.measurements import Timing
from edgekit.report.contents import Report
from edgekit.report.svg import threads


def cautions(report: Report, devices: Iterable[str] | None = None) -> list[tuple[str, str]]:
    """A title and a sentence for each kind of disturbance; empty if there was none.

    Args:
        report: the whole report.
        devices: only these; None: all.
    """
    rows = [t for t in report.latency if t.kind == "measured" and t.samples]
    rows = [t for t in rows if devices is None or t.device in set(devices)]
    found = []
    busy = {
        device: f"load average {most:.2f} on {machine.cores} cores"
        for device, machine in report.machines.items()
        if (most := max((t.load_average for t in rows if t.device == device), default=0.0)) > machine.cores
    }
    if busy:
        where = ", ".join(f"{device} ({why})" for device, why in busy.items())
        words = "Other work makes times longer and less certain: measure again when it has ended."
        found.append(("The machine was busy", f"{where}. {words}"))
    doubtful = [v.device for v in report.verdict if v.undecided and (devices is None or v.device in set(devices))]
    if doubtful:
        words = "Times there are too uncertain to tell which file is the fastest; the one with the lowest p50 ships."
        found.append(("The verdict is not certain", f"{', '.join(doubtful)}. {words}"))
    chosen = [t for verdict in report.verdict if (t := report.timing(verdict)) is not None and t in rows]
    unsteady = [t for t in chosen if t.stable is False]
    if unsteady:
        words = "They kept changing when the time for warm-up was over; a longer measurement may help."
        found.append(("Times were not steady", f"{_named(unsteady)}. {words}"))
    hot = [t for t in rows if any(minute.throttled for minute in t.sustained)]
    if hot:
        found.append(("The clock was throttled under sustained load", f"{_named(hot)}."))
    return found


def _named(rows: Iterable[Timing]) -> str:
    by: dict[str, list[str]] = {}
    for t in rows:
        by.setdefault(f"{t.artifact} on {t.engine}, {threads(t.threads)}", []).append(t.device)
    return "; ".join(f"{what}, on {', '.join(devices)}" for what, devices in by.items())
