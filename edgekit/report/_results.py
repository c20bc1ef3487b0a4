"""The sections of the HTML report, each a function of the report; an empty one is left out."""

from __future__ import annotations

from edgekit.report import _charts
from edgekit.report._charts import MARKS, Bar, Point, tone
from edgekit.report._markup import Markup, badge, details, figure, join, section, table, tag, tiles
from edgekit.report._report import Report
from edgekit.report._svg import megabytes, ms, number, percent, threads
from edgekit.types import Accuracy, Artifact, Machine, Timing, Verdict
from edgekit.verdict import KINDS, best_kind

EMPTY = Markup("")
TIMES, MINUS = "\N{MULTIPLICATION SIGN}", "\N{MINUS SIGN}"


def when(report: Report) -> str:
    """Creation time to the minute, as the caller gave it."""
    return report.created[:16].replace("T", " ") + (" UTC" if report.created.endswith(("Z", "+00:00")) else "")


def header(report: Report) -> Markup:
    """Title, one line on the task, and the float network in numbers."""
    pairs = []
    checkpoint = report.checkpoint
    if checkpoint is not None:
        pairs += [
            (checkpoint.model.name, "model", f"{checkpoint.input.size} px input"),
            (f"{checkpoint.parameters / 1e6:.2f} M", "parameters", ""),
            (f"{checkpoint.macs / 1e6:.0f} M", "multiply-adds", ""),
        ]
    if report.data is not None:
        pairs.append(
            (str(len(report.data.labels)), "classes", f"{sum(map(sum, report.data.counts.values())):,} images")
        )
    if report.reference is not None:
        pairs.append(
            (percent(report.reference.top1), "top-1 of torch fp32", f"{report.reference.images:,} test images")
        )
    description = str(report.recipe.get("description") or "")
    return tag(
        "header",
        tag("p", f"edgekit report, {when(report)}", class_="eyebrow"),
        tag("h1", report.name),
        tag("p", description, class_="lead") if description else "",
        tiles(pairs),
    )


def verdicts(report: Report) -> Markup:
    """What to ship on each device, first of all."""
    broken = [row for row in report.accuracy if not row.passed]
    warnings = [
        tag("p", tag("strong", f"{row.artifact} on {row.engine} failed verification. "), _problem(row), class_="alarm")
        for row in broken
    ]
    cards = [_verdict(report, verdict) for verdict in report.verdict]
    if not cards:
        skipped = next((s.reason for s in report.stages if s.name == "profile" and s.skipped), "nothing was measured")
        cards = [tag("article", tag("h3", "No verdict"), tag("p", f"profile: {skipped}"), class_="verdict none")]
    return tag(
        "section", tag("h2", "Verdict", id="verdict-h"), *warnings, *cards, id="verdict", aria_labelledby="verdict-h"
    )


def _problem(row: Accuracy) -> str:
    return row.problem + (f"; first divergent layer: {row.diverges}" if row.diverges else "")


def _verdict(report: Report, verdict: Verdict) -> Markup:
    machine = report.machines.get(verdict.device)
    place = tag("p", tag("b", verdict.device), f" {machine.cpu}" if machine else "", " ", class_="eyebrow")
    kind = badge(verdict.kind) if verdict.kind else EMPTY
    limits = report.limits.get(verdict.device, {})
    names = {"p90_ms": ("p90", "ms"), "size_mb": ("size", "MB"), "rss_mb": ("memory", "MB")}
    bounds = ", ".join(f"{names[k][0]} ≤ {v:g} {names[k][1]}" for k, v in limits.items() if k in names)
    small = tag("p", f"Limits here: {bounds}.", class_="muted") if bounds else ""
    reason = tag("p", verdict.reason.rstrip(".") + ".", class_="reason")
    if verdict.artifact is None or verdict.engine is None or verdict.threads is None:
        top = tag("div", place, kind, class_="top")
        return tag("article", top, tag("h3", "Nothing to ship"), reason, small, class_="verdict none")
    heading = tag("h3", "Ship ", tag("em", verdict.artifact), f" on {verdict.engine}, {threads(verdict.threads)}")
    top = tag("div", place, kind, class_="top")
    return tag("article", top, heading, tiles(_key_numbers(report, verdict)), reason, small, class_="verdict ship")


def _key_numbers(report: Report, verdict: Verdict) -> list[tuple[str, str, str]]:
    timing, artifact = report.timing(verdict), report.artifact(verdict.artifact)
    score = report.score(verdict.artifact, verdict.engine, verdict.device)
    pairs = []
    if timing is not None:
        pairs.append((f"{ms(timing.p50_ms)} ms", "p50 latency", f"p90 {ms(timing.p90_ms)} ms"))
    if verdict.speedup is not None:
        pairs.append((f"{verdict.speedup:.1f}{TIMES}", "as fast as float", f"vs {verdict.baseline}"))
    if artifact is not None and verdict.size_ratio is not None and verdict.size_ratio > 1:
        pairs.append((f"{verdict.size_ratio:.1f}{TIMES}", "smaller than float", megabytes(artifact.bytes)))
    elif artifact is not None:
        pairs.append((megabytes(artifact.bytes), "file size", artifact.path))
    if score is not None and verdict.top1_drop is not None:
        change = -verdict.top1_drop
        shown = "±0" if abs(change) < 0.005 else f"{change:+.2f}".replace("-", MINUS)
        pairs.append((f"{shown} pt", "top-1 against fp32", percent(score.top1)))
    elif score is not None:
        pairs.append((percent(score.top1), "top-1", f"{score.images:,} test images"))
    return pairs


def _chosen(report: Report, timing: Timing) -> bool:
    return any(report.timing(verdict) is timing for verdict in report.verdict)


def _rows(report: Report, device: str) -> list[Timing]:
    """Timings of a device that may be compared: the best kind it has, one image at a time, fastest first."""
    kind = best_kind(device, report.latency)
    rows = [t for t in report.latency if t.device == device and t.kind == kind and t.batch == 1]
    return sorted(rows, key=lambda t: t.p50_ms)


def _tone(report: Report, artifact: str) -> str:
    found = report.artifact(artifact)
    return tone(found.precision if found else "")


def trade(report: Report) -> Markup:
    """Each device: accuracy against latency, and latency with its spread."""
    parts = []
    for device in report.devices:
        rows = _rows(report, device)
        if rows:
            figures = [_scatter(report, device, rows), _latency(report, device, rows)]
            parts.append(tag("h3", device, " ", badge(rows[0].kind)))
            parts += [_legend(report, rows), tag("div", *figures, class_="grid")]
    if not parts:
        return EMPTY
    lead = "Up and to the left is better. The line joins the candidates that no other beats in both; ✓ is what ships."
    return section("trade", "Accuracy and latency", *parts, lead=lead)


def _scatter(report: Report, device: str, rows: list[Timing]) -> Markup:
    reference = report.reference.top1 if report.reference else None
    bound = reference - report.max_drop / 100 if reference is not None and report.max_drop is not None else None
    several = len({t.threads for t in rows}) > 1
    points, cells = [], []
    for t in rows:
        score = report.score(t.artifact, t.engine, device)
        if score is not None:
            label = t.artifact + (f", {t.threads} thr." if several else "")
            mark = MARKS.get(t.engine, "circle")
            points.append(Point(label, t.p50_ms, score.top1, _tone(report, t.artifact), mark, _chosen(report, t)))
            cells.append((t.artifact, t.engine, str(t.threads), ms(t.p50_ms), percent(score.top1)))
    if not points:
        return figure(
            "Top-1 against p50", tag("p", "No accuracy was verified for what was timed here.", class_="muted")
        )
    fastest = min(points, key=lambda p: p.ms)
    summary = (
        f"Top-1 against p50 latency of {len(points)} candidates on {device}; "
        f"the fastest is {fastest.label} at {ms(fastest.ms)} ms and {percent(fastest.top1)}"
    )
    plot = _charts.scatter(points, summary, reference, bound)
    heads = ("artifact", "engine", "threads", "p50 ms", "top-1")
    listed = table(heads, cells, f"Accuracy and latency on {device}", words=2)
    return figure("Top-1 against p50", plot, details("Numbers of this chart", listed))


def _latency(report: Report, device: str, rows: list[Timing]) -> Markup:
    bars = [
        Bar(
            label=f"{t.artifact} · {t.engine} · {threads(t.threads)}",
            value=t.p50_ms,
            shown=f"{ms(t.p50_ms)} ms",
            tone=_tone(report, t.artifact),
            ship=_chosen(report, t),
            p90=t.p90_ms,
            p99=t.p99_ms,
            title=f"p50 {ms(t.p50_ms)}, p90 {ms(t.p90_ms)}, p99 {ms(t.p99_ms)} ms, {len(t.samples):,} samples",
        )
        for t in rows
    ]
    limit = report.limits.get(device, {}).get("p90_ms")
    summary = f"Latency on {device}: " + "; ".join(f"{bar.label} {bar.shown}" for bar in bars)
    picture = _charts.bars(bars, summary, (limit, f"p90 limit {limit:g} ms") if limit else None)
    cells = [(b.label, ms(t.p50_ms), ms(t.p90_ms), ms(t.p99_ms)) for b, t in zip(bars, rows, strict=True)]
    listed = table(("", "p50", "p90", "p99"), cells, f"Latency on {device}, ms")
    return figure("Latency: p50, whisker to p90 (tall tick) and p99", picture, details("Numbers of this chart", listed))


def _legend(report: Report, rows: list[Timing]) -> Markup:
    precisions = dict.fromkeys(a.precision for t in rows if (a := report.artifact(t.artifact)))
    items = [tag("span", tag("i", class_=f"swatch {tone(p)}"), p) for p in precisions]
    for engine in dict.fromkeys(t.engine for t in rows):
        items.append(tag("span", tag("i", class_=f"mark {MARKS.get(engine, 'circle')}"), engine))
    return tag("p", *items, class_="legend")


def files(report: Report) -> Markup:
    """The exported files: size, what goes in and comes out, where they compute in float."""
    if not report.artifacts:
        return EMPTY
    shipped = {verdict.artifact for verdict in report.verdict}
    ordered = sorted(report.artifacts, key=lambda a: a.bytes)
    bars = [Bar(a.id, a.bytes, megabytes(a.bytes), tone(a.precision), a.id in shipped) for a in ordered]
    summary = "File sizes: " + "; ".join(f"{bar.label} {bar.shown}" for bar in bars)
    cells = [
        (
            a.id,
            f"{a.input.dtype} {a.input.layout}",
            ", ".join(a.lowered) or "—",
            _float_ops(a),
            f"{a.bytes:,}",
        )
        for a in ordered
    ]
    heads = ("artifact", "input", "rewrites", "float ops", "bytes")
    listed = table(heads, cells, "What each file takes and how it computes", words=3)
    floats = [
        details(
            f"{a.id}: where it computes in float ({len(a.float_op_names)})",
            tag("ul", *(tag("li", tag("code", name)) for name in a.float_op_names)),
        )
        for a in ordered
        if a.float_op_names
    ]
    right = tag("figure", tag("figcaption", "Contents"), listed, *floats)
    return section("files", "Files", tag("div", figure("Size", _charts.bars(bars, summary)), right, class_="grid"))


def _float_ops(file: Artifact) -> str:
    return "all" if file.precision in ("fp32", "fp16", "weight_only") else str(file.float_ops)


def machine_words(machine: Machine) -> str:
    """A machine in one line."""
    parts = [machine.cpu, f"{machine.cores} cores", f"{machine.memory_bytes / 1e9:.1f} GB", machine.arch]
    parts += [" ".join(machine.features), machine.os, f"Python {machine.python}"]
    parts.append(f"governor {machine.governor}" if machine.governor else "")
    return ", ".join(part for part in parts if part)


def measurements(report: Report) -> Markup:
    """Every timing with its label, and everything that could not be timed."""
    heads = ["artifact", "engine, provider", "kind", "threads", "top-1", "p50", "p90", "p99", "min", "first", "load"]
    heads += ["peak MB", "file", "samples"]
    parts = []
    for device in report.devices:
        rows = sorted(
            (t for t in report.latency if t.device == device), key=lambda t: (KINDS.index(t.kind), t.batch, t.p50_ms)
        )
        machine = report.machines.get(device)
        parts.append(tag("h3", device))
        if machine is not None:
            parts.append(tag("p", machine_words(machine), class_="muted"))
        cells = []
        for t in rows:
            score, file = report.score(t.artifact, t.engine, device), report.artifact(t.artifact)
            cells.append(
                (
                    t.artifact + (f" (batch {t.batch})" if t.batch != 1 else ""),
                    join((f"{t.engine} {t.engine_version}", tag("small", t.provider))),
                    badge(t.kind),
                    str(t.threads),
                    percent(score.top1) if score else "—",
                    *(ms(v) for v in (t.p50_ms, t.p90_ms, t.p99_ms, t.min_ms, t.first_ms, t.load_ms)),
                    f"{t.rss_bytes / 1e6:.0f}",
                    megabytes(file.bytes) if file else "—",
                    f"{len(t.samples):,}",
                )
            )
        if rows:
            ship = [i for i, t in enumerate(rows) if _chosen(report, t)]
            parts.append(table(heads, cells, f"{device}: latency in milliseconds", words=3, ship=ship))
        for f in (f for f in report.failures if f.device == device):
            what = f"{f.artifact} on {f.engine}, {threads(f.threads)}: "
            parts.append(tag("p", tag("strong", what), f.reason, class_="alarm"))
    return section("rows", "All measurements", *parts) if parts else EMPTY


def verification(report: Report) -> Markup:
    """How far each file in each engine is from torch."""
    if not report.accuracy:
        return EMPTY
    heads = ["artifact", "engine, device", "", "images", "top-1", "agrees with fp32", "agrees with own torch"]
    heads += ["largest difference", "in output steps", "within one step", "SQNR dB", "float ops"]
    cells = []
    for row in report.accuracy:
        file = report.artifact(row.artifact)
        state = badge("passed" if row.passed else "failed")
        if row.engine == "torch":
            state = badge("reference")
        cells.append(
            (
                row.artifact + ("" if row.split == "test" else f" ({row.split})"),
                join((f"{row.engine} {row.engine_version}", tag("small", row.device))),
                state,
                f"{row.images:,}",
                percent(row.top1),
                percent(row.agreement),
                percent(row.agreement_reference),
                number(row.max_difference, 2),
                number(row.max_steps),
                percent(row.within_one_step, 3),
                number(row.sqnr_db),
                _float_ops(file) if file else "—",
            )
        )
    listed = table(heads, cells, "The same test images through torch and every file", words=3)
    lead = (
        "Own torch is the torch model of the same precision; differences and steps are against it, SQNR against fp32."
    )
    return section("verify", "Verification", listed, lead=lead)
