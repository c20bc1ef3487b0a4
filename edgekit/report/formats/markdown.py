"""``report.md``: the verdicts, one table and any failures; short enough for a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from edgekit.profile import protocol
from edgekit.profile.operators import hottest, shown
from edgekit.report import evidence, golden, hotspots, robustness, scoring
from edgekit.report.cautions import cautions
from edgekit.report.compression import symmetry
from edgekit.report.contents import Report
from edgekit.report.placement import ran
from edgekit.report.svg import megabytes, ms, percent, threads
from edgekit.scores import Accuracy
from edgekit.verdict.rule import KINDS

SUFFIX = "md"
HOT = 3
"""Number of operators that are named for each profile."""
TIMED = ("accuracy: ", "golden: ", "operators: ")
"""Prefixes of failure reasons that are not about latency."""


def render(report: Report) -> str:
    """The report as GitHub-flavoured Markdown. External text is escaped."""
    blocks = [f"## edgekit: {text(report.name)}", _verdicts(report), _cautions(report)]
    if report.latency:
        blocks.append(_timings(report))
    elif report.accuracy:
        blocks.append(_scores(report))
    blocks += [
        _robustness(report),
        _evidence(report),
        _golden_vectors(report),
        _operators(report),
        _pruning(report),
        text(symmetry(report.quantization)) if report.quantization else "",
        _ladder(report),
        _failures(report),
        _machines(report),
        _source(report),
        _skipped(report),
        _protocol(report),
    ]
    blocks.append(f"<sub>edgekit {text(report.edgekit_version)}, {text(report.created)}</sub>")
    return "\n\n".join(block for block in blocks if block) + "\n"


def _verdicts(report: Report) -> str:
    lines = [f"- **{text(v.device)}**: {'ship ' if v.artifact else ''}{text(v.reason)}" for v in report.verdict]
    lines = lines or ["No verdict: nothing was profiled.", ""][: 1 + bool(report.warnings)]
    return "\n".join([*lines, *(f"- **Careful**: {text(words)}" for words in report.warnings)])


def _cautions(report: Report) -> str:
    """What makes the times doubtful."""
    return "\n".join(f"- **{title}.** {text(words)}" for title, words in cautions(report))


def _timings(report: Report) -> str:
    chosen = [report.timing(verdict) for verdict in report.verdict]
    rows = []
    for t in sorted(
        report.latency, key=lambda t: (report.devices.index(t.device), KINDS.index(t.kind), t.batch, t.p50_ms)
    ):
        score, file = report.score(t.artifact, t.engine, t.device), report.artifact(t.artifact)
        name = f"**{text(t.artifact)}**" if any(t is each for each in chosen) else text(t.artifact)
        rows.append(
            (
                text(t.device),
                name + (f" (batch {t.batch})" if t.batch != 1 else "") + (" (reference)" if t.reference else ""),
                text(f"{t.engine} {t.engine_version} ({ran(t)})"),
                str(t.threads),
                t.kind,
                ms(t.p50_ms) + (f" ({ms(t.p50_ci[0])} to {ms(t.p50_ci[1])})" if t.p50_ci else ""),
                *(ms(value) if t.samples and value is not None else "—" for value in (t.p90_ms, t.p99_ms)),
                megabytes(file.bytes) if file else "—",
                percent(score.top1 if score else None),
                percent(score.agreement if score else None),
            )
        )
    heads = ("device", "artifact", "engine", "threads", "kind", "p50 ms", "p90 ms", "p99 ms", "size", "top-1")
    notes = [
        f"- {text(t.device)}: {text(t.artifact)} on {text(t.engine)}, {threads(t.threads)}: {text(t.sampling)}."
        for t in report.latency
        if t.sampling
    ]
    if any(t.reference for t in report.latency):
        notes.append("- (reference): PyTorch's time for the float network, for comparison only; it is never shipped.")
    return "\n".join((table((*heads, "agrees with fp32"), rows, words=3), *(["", *notes] if notes else [])))


def _protocol(report: Report) -> str:
    """How the times were measured, in a collapsed block."""
    if not any(t.samples for t in report.latency):
        return ""
    return f"<details><summary>How it was measured</summary>\n\n{protocol.markdown()}\n\n</details>"


def _operators(report: Report) -> str:
    """Why one file is faster than another, and which layers take the time."""
    lines = []
    for device in report.devices:
        profiles = hotspots.found(report, device)
        lines += [f"- {text(device)}: {text(reason)}" for reason in hotspots.reasons(report, device)]
        for profile in profiles:
            hot = (f"{text(shown(row.layer))} ({text(row.op)}) {percent(row.share)}" for row in hottest(profile, HOT))
            lines.append(f"- {text(device)}: {text(profile.artifact)} on {text(profile.engine)}: {', '.join(hot)}")
        lines += [f"- {text(device)}: {text(caution)}" for caution in hotspots.cautions(profiles)]
    return "\n".join(("**Where the time goes**", "", *lines)) if lines else ""


def _robustness(report: Report) -> str:
    """Scores on corrupted images, and whether compressed files lose more there."""
    heads, cells = robustness.rows(report)
    if not cells:
        return ""
    said = (f"- {text(words)}" for words in robustness.answers(report))
    listed = table([text(head) for head in heads], cells, words=2)
    return "\n".join(("**Corrupted images** (top-1)", "", listed, "", *said)).rstrip()


def _evidence(report: Report) -> str:
    """Whether compressed networks look at what float looks at."""
    if not report.evidence:
        return ""
    cells = [tuple(text(cell) for cell in row) for row in evidence.rows(report)]
    listed = table([text(head) for head in evidence.HEADS], cells, words=2)
    return "\n".join((f"**Evidence** ([pictures]({evidence.PAGE}))", "", listed))


def _golden_vectors(report: Report) -> str:
    """Whether each device reproduces the outputs that were computed where the bundle was packed."""
    lines = [f"- {text(d)}: {text(golden.summary(rows))}" for d in report.devices if (rows := golden.of(report, d))]
    return "\n".join(("**Golden vectors**", "", *lines)) if lines else ""


def _scores(report: Report) -> str:
    rows = [
        (
            text(a.artifact),
            text(_where(a)),
            percent(a.top1),
            scoring.change(a.lost) if a.lost else "—",
            percent(a.agreement),
        )
        for a in report.accuracy
        if a.split == "test"
    ]
    return table(("artifact", "engine", "top-1", "against fp32 (95 % interval)", "agrees with fp32"), rows, words=2)


def _where(score: Accuracy) -> str:
    place = "" if score.device == "host" else f", {score.images} images on {score.device}"
    return f"{score.engine} {score.engine_version}{place}"


def _pruning(report: Report) -> str:
    pruning = report.pruning
    if pruning is None:
        return ""
    macs, parameters = (f"{after / before:.0%}" for before, after in (pruning.macs, pruning.parameters))
    left = f"{macs} of the multiply-adds and {parameters} of the parameters are left"
    return f"Pruned by {text(pruning.score)} ({text(pruning.target)}): {left}."


def _ladder(report: Report) -> str:
    rungs = report.quantization.rungs if report.quantization else ()
    rows = [
        (
            f"**{rung.name}**" if rung.chosen else rung.name,
            text(rung.problem or rung.settings),
            percent(rung.accuracy),
            percent(rung.agreement),
            "—" if rung.drop is None else f"{rung.drop:.2f}",
        )
        for rung in rungs
    ]
    heads = ("rung", "sets", "validation top-1", "agrees with fp32", "points lost")
    return table(heads, rows, words=2) if len(rows) > 1 else ""


def _failures(report: Report) -> str:
    lines = [
        f"- {text(a.artifact)} on {text(a.engine)} failed verification: {text(a.problem)}"
        + (f"; first divergent layer: {text(a.diverges)}" if a.diverges else "")
        for a in report.accuracy
        if not a.passed
    ]
    lines += [
        f"- {text(row.device)}: {text(row.artifact)} on {text(row.engine)} does not match its golden vectors: "
        f"{text(row.problem)}"
        for row in report.golden
        if row.problem
    ]
    lines += [
        f"- {text(f.device)}: {text(f.artifact)} on {text(f.engine)}, {threads(f.threads)}"
        f"{'' if f.reason.startswith(TIMED) else ', was not timed'}: {text(f.reason)}"
        for f in report.failures
    ]
    return "\n".join(("**Failures**", "", *lines)) if lines else ""


def _machines(report: Report) -> str:
    lines = [
        f"- {text(device)}: {text(m.cpu)}, {m.cores} cores, {m.arch}, {text(m.os)}"
        for device, m in report.machines.items()
    ]
    return "\n".join(("**Machines**", "", *lines)) if lines else ""


def _source(report: Report) -> str:
    """The bundle that the files come from."""
    source = report.provenance.source
    if source is None:
        return ""
    signed = f"signed with {text(source.signed_by)}" if source.signed_by else "not signed"
    notes = "".join(f"\n- {text(note)}" for note in source.notes)
    return f"Files of {text(source.file)} (manifest {source.digest[:16]}, {signed}).{notes and chr(10) + notes}"


def _skipped(report: Report) -> str:
    words = "; ".join(f"{s.name}: {text(s.reason or 'skipped')}" for s in report.stages if s.skipped)
    return f"Skipped stages: {words}." if words else ""


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, words: int) -> str:
    """A table whose first `words` columns are left-aligned; cells are not escaped."""
    rule = [":---" if i < words else "---:" for i in range(len(heads))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, rule, *rows))


def text(words: str) -> str:
    """Plain text, escaped so that nothing in it is read as Markdown, HTML or the end of a table cell."""
    return re.sub(r"([\\`*\[\]<>|&])", r"\\\1", " ".join(words.split()))
