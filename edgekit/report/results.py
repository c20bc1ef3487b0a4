"""Sections of the HTML report on the results, each a function of the report; an empty one is left out."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.measurements import Machine, Timing, Verdict
from edgekit.profile.protocol import STEPS
from edgekit.report import _charts
from edgekit.report._charts import Bar, tone
from edgekit.report._panels import EMPTY, MEANING, chosen, with_interval
from edgekit.report.contents import Report
from edgekit.report.markup import Markup, badge, details, figure, join, section, table, tag, tiles
from edgekit.report.placement import ran
from edgekit.report.svg import megabytes, ms, number, percent, threads
from edgekit.types import Accuracy, Artifact
from edgekit.verdict.rule import KINDS

TIMES, MINUS = "\N{MULTIPLICATION SIGN}", "\N{MINUS SIGN}"
NOT = "not measured"
FEW = 4
"""Up to this many verdict cards are shown without folding."""


def when(report: Report) -> str:
    """Creation time to the minute, in the time zone that the caller gave."""
    return report.created[:16].replace("T", " ") + (" UTC" if report.created.endswith(("Z", "+00:00")) else "")


def header(report: Report) -> Markup:
    """Title, a description in one line, and key numbers of the float network."""
    pairs = []
    checkpoint = report.checkpoint
    if checkpoint is not None:
        pairs += [
            (checkpoint.model.name, "model", f"{checkpoint.input} input"),
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
    """What to ship on each device."""
    broken = [row for row in report.accuracy if not row.passed]
    warnings = [
        tag("p", tag("strong", f"{row.artifact} on {row.engine} failed verification. "), _problem(row), class_="alarm")
        for row in broken
    ]
    warnings += [tag("p", tag("strong", "Careful. "), f"{text}.", class_="alarm") for text in report.warnings]
    warnings += [
        tag(
            "p",
            tag("strong", f"{row.artifact} on {row.engine} gives wrong results on {row.device}. "),
            f"{row.problem}.",
            class_="alarm",
        )
        for row in report.golden
        if row.problem
    ]
    cards = [_verdict(report, verdict) for verdict in report.verdict]
    if len(cards) > 1:
        cards.insert(0, tag("article", _glance(report), class_="verdict glance"))
    if len(cards) > FEW:
        cards = [cards[0], details("Each verdict with its reason", *cards[1:])]
    if not cards:
        skipped = next((s.reason for s in report.stages if s.name == "profile" and s.skipped), "nothing was measured")
        cards = [tag("article", tag("h3", "No verdict"), tag("p", f"profile: {skipped}"), class_="verdict none")]
    return tag(
        "section", tag("h2", "Verdict", id="verdict-h"), *warnings, *cards, id="verdict", aria_labelledby="verdict-h"
    )


def _glance(report: Report) -> Markup:
    """All devices in one table."""
    cells = []
    for v in report.verdict:
        t, file = report.timing(v), report.artifact(v.artifact)
        score = report.score(v.artifact, v.engine, v.device) if v.artifact else None
        cells.append(
            (
                v.device,
                badge(v.kind) if v.kind else "—",
                tag("strong", v.artifact) if v.artifact else tag("strong", "nothing", class_="none"),
                join((v.engine, tag("small", threads(v.threads)))) if v.engine and v.threads else "—",
                with_interval(t.p50_ms, t.p50_ci) if t else "—",
                ms(t.p90_ms) if t and t.samples and t.p90_ms is not None else "—",
                percent(score.top1) if score else "—",
                megabytes(file.bytes) if file else "—",
            )
        )
    heads = ("device", "kind", "ship", "engine", "p50 ms", "p90 ms", "top-1", "size")
    return table(heads, cells, "What to ship on each device; numbers of different kinds are not comparable", words=4)


def _problem(row: Accuracy) -> str:
    return row.problem + (f"; first divergent layer: {row.diverges}" if row.diverges else "")


def _verdict(report: Report, verdict: Verdict) -> Markup:
    machine = report.machines.get(verdict.device)
    place = tag("p", tag("b", verdict.device), f" {machine.cpu}" if machine else "", " ", class_="eyebrow")
    kind = badge(verdict.kind) if verdict.kind else EMPTY
    limits = report.limits.get(verdict.device, {})
    names = {"p90_ms": ("p90", "ms"), "size_mb": ("size", "MB"), "rss_mb": ("memory", "MB")}
    bounds = ", ".join(f"{names[k][0]} ≤ {v:g} {names[k][1]}" for k, v in limits.items() if k in names)
    small = tag("p", f"Limits of this device: {bounds}.", class_="muted") if bounds else ""
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
        more = with_interval(timing.p50_ms, timing.p50_ci)
        if timing.samples and timing.p90_ms is not None:
            more = f"p90 {ms(timing.p90_ms)} ms"
        pairs.append((f"{ms(timing.p50_ms)} ms", "p50 latency", more))
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


def files(report: Report) -> Markup:
    """The exported files: size, input, rewrites, and where they compute in float."""
    if not report.artifacts:
        return EMPTY
    shipped = {verdict.artifact for verdict in report.verdict}
    ordered = sorted(report.artifacts, key=lambda a: a.bytes)
    bars = [Bar(a.id, a.bytes, megabytes(a.bytes), tone(a.precision), a.id in shipped) for a in ordered]
    summary = "File sizes: " + "; ".join(f"{bar.label} {bar.shown}" for bar in bars)
    cells = [
        (
            a.id,
            f"{a.input.dtype} {a.input.layout}".rstrip(),
            ", ".join(a.lowered) or "—",
            _float_ops(a),
            f"{a.bytes:,}",
        )
        for a in ordered
    ]
    heads = ("artifact", "input", "rewrites", "float ops", "bytes")
    listed = table(heads, cells, "Input, rewrites and float operators of each file", words=3)
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
    known = "—" if file.float_ops < 0 else str(file.float_ops)
    return "all" if file.precision in ("fp32", "fp16", "weight_only") else known


def machine_words(machine: Machine) -> str:
    """A machine in one line."""
    parts = [machine.cpu, f"{machine.cores} cores", f"{machine.memory_bytes / 1e9:.1f} GB", machine.arch]
    parts += [" ".join(machine.features), machine.os, f"Python {machine.python}"]
    parts.append(f"governor {machine.governor}" if machine.governor else "")
    return ", ".join(part for part in parts if part)


def measurements(report: Report) -> Markup:
    """Every timing with its kind, and everything that could not be timed."""
    heads = ["artifact", "engine, provider", "kind", "threads", "top-1", "p50 (95 % interval)", "p90", "p99", "min"]
    heads += ["first", "load", "end to end", "energy, mJ", "peak MB", "file", "warm-up", "samples"]
    parts: list[Markup] = []
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
                    _named(t),
                    join((f"{t.engine} {t.engine_version}", tag("small", ran(t)))),
                    badge(t.kind),
                    str(t.threads),
                    percent(score.top1) if score else "—",
                    with_interval(t.p50_ms, t.p50_ci),
                    *(
                        ms(v) if t.samples and v is not None else "—"
                        for v in (t.p90_ms, t.p99_ms, t.min_ms, t.first_ms, t.load_ms)
                    ),
                    ms(t.steps.total_ms) if t.steps else NOT,
                    NOT if t.energy_mj is None else join((number(t.energy_mj), tag("small", t.energy))),
                    f"{t.rss_bytes / 1e6:.0f}" if t.rss_bytes else NOT,
                    megabytes(file.bytes) if file else "—",
                    _warmup(t),
                    (f"{len(t.samples):,}" + (" runs" if t.sampling else "")) if t.samples else _counted(t),
                )
            )
        if rows:
            ship = [i for i, t in enumerate(rows) if chosen(report, t)]
            kept = [i for i in range(len(heads)) if any(row[i] != NOT for row in cells)]
            shown = [[row[i] for i in kept] for row in cells]
            caption = f"{device}: latency in milliseconds"
            parts.append(table([heads[i] for i in kept], shown, caption, words=3, ship=ship))
            if len(kept) < len(heads):
                left = ", ".join(head for i, head in enumerate(heads) if i not in kept)
                parts.append(tag("p", f"{left}: {NOT}.", class_="muted"))
            parts += [tag("p", words, class_="muted") for words in _conditions(rows)]
        for f in (f for f in report.failures if f.device == device):
            what = f"{f.artifact} on {f.engine}, {threads(f.threads)}: "
            parts.append(tag("p", tag("strong", what), f.reason, class_="alarm"))
    lead = "Times in milliseconds of single inferences, one image at a time unless a batch size is given."
    if any(t.sampling for t in report.latency):
        lead = lead.replace(" of single inferences", " of single inferences, except for rows with a note below")
    if any(t.reference for t in report.latency):
        lead += " A reference is PyTorch's time for the float network, for comparison only; it is never shipped."
    return section("rows", "All measurements", *parts, lead=lead) if parts else EMPTY


def _named(t: Timing) -> Markup:
    batch = f" (batch {t.batch})" if t.batch != 1 else ""
    return join((f"{t.artifact}{batch}", *((" ", badge("reference")) if t.reference else ())))


def _conditions(rows: Sequence[Timing]) -> list[str]:
    """Conditions under which the rows of a device were measured, and why anything was not measured."""
    timed = [t for t in rows if t.samples]
    if not timed:
        return []
    warm = [t.temperature_c for t in timed if t.temperature_c is not None]
    words = [f"Load average up to {max(t.load_average for t in timed):.2f}"]
    words += [f"{min(warm):.0f} to {max(warm):.0f} °C before the first inference" if warm else "temperature not read"]
    cached = {t.cached for t in timed}
    files = {True: "files were in the page cache", False: "files were not in the page cache"}
    words += [files[known] for known in (True, False) if cached == {known}]
    told = {"end to end": {t.end_to_end for t in timed if not t.steps}}
    told["energy"] = {t.energy for t in timed if t.energy_mj is None}
    runs = [f"{t.artifact} on {t.engine}, {threads(t.threads)}: {t.sampling}." for t in timed if t.sampling]
    why = [f"{what.capitalize()} {reason}." for what, all_ in told.items() for reason in sorted(all_) if reason != NOT]
    return [f"{', '.join(words)}.", *runs, *why]


def _counted(t: Timing) -> str:
    return "none" if t.instructions is None else f"none; {t.instructions:,} instructions"


def _warmup(t: Timing) -> str:
    if not t.samples:
        return "—"
    used = t.warmup if t.warmup_used is None else t.warmup_used
    return {None: str(used), True: f"{used}, steady", False: f"{used}, not steady"}[t.stable]


def protocol(report: Report) -> Markup:
    """How the numbers were measured."""
    if not report.latency:
        return EMPTY
    kinds = [kind for kind in KINDS if any(t.kind == kind for t in report.latency)]
    lines = [tag("li", tag("b", kind), f": {MEANING[kind]}.") for kind in kinds]
    steps = (tag("p", tag("strong", f"{title}. "), words) for title, words in STEPS)
    kinds_words = tag("p", "Kinds are never compared or ranked together:")
    return section("protocol", "How it was measured", *steps, kinds_words, tag("ul", *lines))


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
                join((number(row.max_difference, 2), tag("small", row.diverges or ""))),
                number(row.max_steps),
                percent(row.within_one_step, 3),
                number(row.sqnr_db),
                _float_ops(file) if file else "—",
            )
        )
    listed = table(heads, cells, "The same test images through torch and every file", words=3)
    lead = (
        "Own torch is the torch model of the same precision; differences and steps are relative to it, SQNR to fp32. "
        "On devices other than the host, all of these are relative to the same file on the host."
    )
    return section("verify", "Verification", listed, lead=lead)
