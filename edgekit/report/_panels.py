"""What may be compared in one chart: timings of one device and one kind, at batch size 1."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgekit.measurements import Kind, Timing
from edgekit.report.charts import MARKS, tone
from edgekit.report.contents import Report
from edgekit.report.markup import Markup, tag
from edgekit.report.svg import ms, threads
from edgekit.verdict.rule import KINDS

EMPTY = Markup("")
DASH = "\N{EN DASH}"
MEANING = {
    "measured": "timed on the device itself",
    "emulated": "run on an emulated processor: counts are exact, times are the emulator's",
    "estimated": "computed from instructions and bytes moved: an estimate with an error bar",
}


@dataclass(frozen=True)
class Panel:
    """Timings that may be shown together; kinds are never mixed."""

    device: str
    kind: Kind
    rows: tuple[Timing, ...]
    """Fastest first."""


def panels(report: Report) -> list[Panel]:
    """All panels of a report: devices in its order, the best kind of each first."""
    in_order = []
    for device in report.devices:
        for kind in KINDS:
            rows = [t for t in report.latency if (t.device, t.kind, t.batch) == (device, kind, 1)]
            if rows:
                in_order.append(Panel(device, kind, tuple(sorted(rows, key=lambda t: t.p50_ms))))
    return in_order


def label(t: Timing) -> str:
    """``tflite-int8 · litert · 2 threads``; PyTorch is marked as a reference."""
    return f"{t.artifact} · {t.engine} · {threads(t.threads)}{' (reference)' if t.reference else ''}"


def chosen(report: Report, t: Timing) -> bool:
    """Whether this timing is the one that ships on its device."""
    return any(report.timing(verdict) is t for verdict in report.verdict)


def precision_tone(report: Report, artifact: str) -> str:
    """CSS class of an artifact's precision."""
    row = report.artifact(artifact)
    return tone(row.precision if row else "")


def with_interval(value: float, ci: tuple[float, float] | None) -> str:
    """``1.32 (1.30-1.35)``, with an en dash."""
    return ms(value) + (f" ({ms(ci[0])}{DASH}{ms(ci[1])})" if ci else "")


def legend(report: Report, rows: Iterable[Timing]) -> Markup:
    """Legend of the precisions' colours and the engines' marks."""
    rows = list(rows)
    precisions = dict.fromkeys(a.precision for t in rows if (a := report.artifact(t.artifact)))
    items = [tag("span", tag("i", class_=f"swatch {tone(p)}"), p) for p in precisions]
    if any(t.reference for t in rows):  # only in the bars, which have no marks
        items.append(tag("span", tag("i", class_=f"swatch {precision_tone(report, '')}"), "reference"))
    for engine in dict.fromkeys(t.engine for t in rows if not t.reference):
        items.append(tag("span", tag("i", class_=f"mark {MARKS.get(engine, 'circle')}"), engine))
    return tag("p", *items, class_="legend")
