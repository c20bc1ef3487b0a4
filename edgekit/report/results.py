"""Sections of the HTML report on the results, each a function of the report; an empty one is left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgekit.measurements import Machine, Timing
from edgekit.profile.protocol import STEPS
from edgekit.report import _bars
from edgekit.report._bars import Bar
from edgekit.report._panels import EMPTY, MEANING, chosen, with_interval
from edgekit.report.charts import tone
from edgekit.report.contents import Report
from edgekit.report.markup import Markup, badge, breakable, details, figure, fold, join, prose, table, tag
from edgekit.report.placement import ran
from edgekit.report.svg import megabytes, ms, number, percent, threads
from edgekit.runtime import engine_menu
from edgekit.scores import Accuracy
from edgekit.types import Artifact
from edgekit.verdict.rule import KINDS

NOT = "not measured"


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
            tag("dl", *(tag("div", tag("dt", kind), tag("dd", names)) for kind, names in _by_kind(a)), class_="facts"),
        )
        for a in ordered
        if a.float_op_names
    ]
    right = figure("Contents", listed, *floats)
    digest = f"{len(ordered)} files, {megabytes(ordered[0].bytes)} to {megabytes(ordered[-1].bytes)}"
    return fold(
        "files", "Files", digest, tag("div", figure("Size", _bars.bars(bars, summary)), right, class_="figures")
    )


def _by_kind(file: Artifact) -> list[tuple[str, Markup]]:
    """Float operators by type: ``HARD_SWISH, 2`` and the layers."""
    layers: dict[str, list[str]] = {}
    for each in file.float_op_names:
        kind, _, name = each.partition(" ")
        layers.setdefault(kind, []).append(name)
    return [(f"{kind}, {len(names)}", tag("code", breakable(", ".join(names)))) for kind, names in layers.items()]


def _float_ops(file: Artifact) -> str:
    known = "—" if file.float_ops < 0 else str(file.float_ops)
    return "all" if file.precision in ("fp32", "fp16", "weight_only") else known


def machine_words(machine: Machine) -> str:
    """A machine in one line."""
    parts = [machine.cpu, f"{machine.cores} cores", f"{machine.memory_bytes / 1e9:.1f} GB", machine.arch]
    parts += [" ".join(machine.features), machine.os, f"Python {machine.python}"]
    parts.append(f"governor {machine.governor}" if machine.governor else "")
    return ", ".join(part for part in parts if part)


def measurements(report: Report, device: str) -> list[Markup]:
    """Every timing of a device with its kind, under which conditions, and everything that could not be timed."""
    heads = ["file, engine, provider", "p50 (95 % interval)", "top-1", "threads", "kind", "p90", "p99", "min", "first"]
    heads += ["load", "end to end", "energy, mJ", "peak MB", "file size", "samples (warm-up)"]
    parts: list[Markup] = []
    rows = sorted(
        (t for t in report.latency if t.device == device), key=lambda t: (KINDS.index(t.kind), t.batch, t.p50_ms)
    )
    cells = []
    for t in rows:
        score, file = report.score(t.artifact, t.engine, device), report.artifact(t.artifact)
        cells.append(
            (
                join((_named(report, t), tag("small", f"{t.engine} {t.engine_version}, ", ran(t, most=3)))),
                _spread(t),
                percent(score.top1) if score else "—",
                str(t.threads),
                badge(t.kind),
                *(
                    ms(v) if t.samples and v is not None else "—"
                    for v in (t.p90_ms, t.p99_ms, t.min_ms, t.first_ms, t.load_ms)
                ),
                ms(t.steps.total_ms) if t.steps else NOT,
                NOT if t.energy_mj is None else join((number(t.energy_mj), tag("small", t.energy))),
                f"{t.rss_bytes / 1e6:.0f}" if t.rss_bytes else NOT,
                megabytes(file.bytes) if file else "—",
                join((_counted(t), tag("small", _warmup(t)))),
            )
        )
    if rows:
        ship = [i for i, t in enumerate(rows) if chosen(report, t)]
        kept = [i for i in range(len(heads)) if any(row[i] != NOT for row in cells)]
        shown = [[row[i] for i in kept] for row in cells]
        parts.append(table([heads[i] for i in kept], shown, f"Times on {device} in milliseconds", ship=ship))
        if len(kept) < len(heads):
            left = ", ".join(head for i, head in enumerate(heads) if i not in kept)
            parts.append(tag("p", f"{left}: {NOT}.", class_="muted"))
        parts += [tag("p", words, class_="muted") for words in _conditions(rows)]
        parts += _elsewhere(rows)
    for f in (f for f in report.failures if f.device == device):
        what = f"{f.artifact} on {f.engine}, {threads(f.threads)}: "
        parts.append(tag("p", tag("strong", what), f.reason, class_="alarm"))
    return parts


def _spread(t: Timing) -> Markup:
    value, _, rest = with_interval(t.p50_ms, t.p50_ci).partition(" ")
    return join((value, tag("small", f" {rest}") if rest else ""))


def _elsewhere(rows: Sequence[Timing]) -> list[Markup]:
    """Operators that ran on another provider than the requested one, type by type."""
    counts = {
        (f"{t.artifact} on {t.provider}", provider, kind): count
        for t in rows
        for provider, kinds in t.placement.items()
        if provider != t.provider
        for kind, count in kinds.items()
    }
    cells = [(*key, str(count)) for key, count in counts.items()]
    heads = ("file", "ran on", "operator", "count")
    named = f"Operators that ran on another provider ({sum(counts.values())})"
    return [details(named, table(heads, cells, "Operators by provider", words=3))] if cells else []


def _named(report: Report, t: Timing) -> Markup:
    batch = f" (batch {t.batch})" if t.batch != 1 else ""
    ships = " ✓" if chosen(report, t) else ""
    return join((f"{t.artifact}{batch}{ships}", *((" ", badge("reference")) if t.reference else ())))


def _conditions(rows: Sequence[Timing]) -> list[str]:
    """Conditions under which the rows of a device were measured, and why anything was not measured."""
    timed = [t for t in rows if t.samples]
    if not timed:
        return []
    warm = [t.temperature_c for t in timed if t.temperature_c is not None]
    words = [f"Load average up to {max(t.load_average for t in timed):.2f}"]
    waiting = [t.cpu_pressure for t in timed if t.cpu_pressure is not None]
    stolen = [t.cpu_steal for t in timed if t.cpu_steal is not None]
    words += [f"a process waiting for a core up to {percent(max(waiting))} of the time"] if waiting else []
    words += [f"up to {percent(max(stolen))} of the CPU time taken by other virtual machines"] if stolen else []
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
    if t.samples:
        return f"{len(t.samples):,}" + (" runs" if t.sampling else "")
    return "none" if t.instructions is None else f"none; {t.instructions:,} instructions"


def _warmup(t: Timing) -> str:
    if not t.samples:
        return ""
    used = t.warmup if t.warmup_used is None else t.warmup_used
    return " " + {None: str(used), True: f"{used}, steady", False: f"{used}, not steady"}[t.stable]


def protocol(report: Report) -> Markup:
    """How the numbers were measured."""
    if not report.latency:
        return EMPTY
    kinds = [kind for kind in KINDS if any(t.kind == kind for t in report.latency)]
    lines = [tag("li", tag("b", kind), f": {MEANING[kind]}.") for kind in kinds]
    steps = [tag("p", tag("strong", f"{title}. "), prose(words)) for title, words in STEPS]
    kinds_words = tag("p", "Kinds are never compared or ranked together:")
    body = tag("div", *steps, tag("div", kinds_words, tag("ul", *lines)), class_="prose")
    return fold("protocol", "How it was measured", f"times are {' and '.join(kinds)}", body)


def verification(report: Report) -> Markup:
    """How far each file in each engine is from torch."""
    if not report.accuracy:
        return EMPTY
    heads = ["artifact", "engine, device", "", "images", "top-1", "agrees with fp32", "agrees with own torch"]
    heads += ["largest difference", "in output steps", "within one step", "SQNR dB", "float ops"]
    cells = []
    for row in report.accuracy:
        file = report.artifact(row.artifact)
        bound = engine_menu.bound(row.engine) if file and file.precision == "int8" else None
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
                join((percent(row.agreement_reference), _at(bound and f"bound {percent(bound.agreement)}"))),
                join((number(row.max_difference, 2), tag("small", row.diverges or ""))),
                join((number(row.max_steps), _at(bound and f"bound {bound.steps}"))),
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
    files = [row for row in report.accuracy if row.engine != "torch"]
    held = sum(row.passed for row in files)
    inexact = [name for name in dict.fromkeys(row.engine for row in files) if engine_menu.bound(name)]
    if inexact:
        lead += (
            f" {' and '.join(inexact)} does not compute exactly: there, int8 files are held to the bound shown and to "
            "the accuracy measured, and a file that misses it is not shipped with that engine."
        )
    steps = _steps(row for row in files if row.engine not in inexact)
    digest = f"{held} of {len(files)} files and engines agree with torch" if files else "only torch was scored"
    digest += f", at most {number(steps)} step{'' if steps == 1 else 's'} apart" if steps is not None else ""
    for name in inexact:
        steps = _steps(row for row in files if row.engine == name)
        digest += f", {number(steps)} in {name}" if steps is not None else ""
    return fold("verify", "Verification", digest, tag("p", lead, class_="lead"), listed)


def _at(words: str | None) -> Markup:
    return tag("small", words) if words else EMPTY


def _steps(rows: Iterable[Accuracy]) -> float | None:
    """The largest difference of those that passed."""
    return max((row.max_steps for row in rows if row.passed and row.max_steps is not None), default=None)
