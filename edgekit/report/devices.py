"""Sections of the HTML report on each device; every chart has a table, and every block names its kind of timing."""

from __future__ import annotations

from functools import partial

from edgekit.measurements import OperatorProfile, Timing
from edgekit.report import _charts, _plots, hotspots
from edgekit.report._charts import MARKS, Bar, Point
from edgekit.report._panels import EMPTY, Panel, blocks, chosen, label, legend, panels, precision_tone, with_interval
from edgekit.report._plots import Series, Spread, Stack
from edgekit.report.contents import Report
from edgekit.report.markup import Markup, details, figure, join, section, table, tag
from edgekit.report.svg import megabytes, ms, number, percent, threads

NUMBERS = "Numbers of this chart"
FAMILIES = 6
"""Number of operator families with a part of their own; the rest are combined."""
HOT = 10
NOT = "not measured"
TIMES = "\N{MULTIPLICATION SIGN}"


def trade(report: Report) -> Markup:
    """For each device: accuracy against latency and size, and latency with its spread."""
    parts = blocks(((panel, partial(_trade, report, panel)) for panel in panels(report)), beside=False)
    lead = "Up and to the left is better; larger marks are larger files. The line joins the candidates that no other "
    lead += "beats in both; ✓ marks what ships. "
    lead += "Hollow, dashed marks are emulated or estimated, and never compared with others."
    return section("trade", "Accuracy, latency, size", *parts, lead=lead) if parts else EMPTY


def _trade(report: Report, panel: Panel) -> Markup:
    figures = tag("div", _scatter(report, panel), _latency(report, panel), class_="grid")
    return join((legend(report, panel.rows), figures))


def _scatter(report: Report, panel: Panel) -> Markup:
    reference = report.reference.top1 if report.reference else None
    bound = reference - report.max_drop / 100 if reference is not None and report.max_drop is not None else None
    several = len({t.threads for t in panel.rows}) > 1
    largest = max((a.bytes for a in report.artifacts), default=1)
    points, cells = [], []
    for t in panel.rows:
        score, file = report.score(t.artifact, t.engine, panel.device), report.artifact(t.artifact)
        if score is not None and not t.reference:
            words = t.artifact + (f", {t.threads} thr." if several else "")
            radius = 4 + 5 * (file.bytes / largest) ** 0.5 if file else 6.0
            look = precision_tone(report, t.artifact), MARKS.get(t.engine, "circle")
            points.append(Point(words, t.p50_ms, score.top1, *look, chosen(report, t), radius))
            size = megabytes(file.bytes) if file else "—"
            cells.append((t.artifact, t.engine, str(t.threads), ms(t.p50_ms), percent(score.top1), size))
    if not points:
        none = tag("p", "None of the files timed here has a verified accuracy.", class_="muted")
        return figure("Top-1 against p50", none)
    fastest = min(points, key=lambda p: p.ms)
    summary = (
        f"Top-1 against {panel.kind} p50 latency of {len(points)} candidates on {panel.device}; "
        f"the fastest is {fastest.label} at {ms(fastest.ms)} ms and {percent(fastest.top1)}"
    )
    heads = ("artifact", "engine", "threads", "p50 ms", "top-1", "size")
    listed = table(heads, cells, f"Accuracy, {panel.kind} latency and size on {panel.device}", words=2)
    return figure("Top-1 against p50", _charts.scatter(points, summary, reference, bound), details(NUMBERS, listed))


def _latency(report: Report, panel: Panel) -> Markup:
    bars = [
        Bar(
            label=label(t),
            value=t.p50_ms,
            shown=f"{ms(t.p50_ms)} ms",
            tone=precision_tone(report, t.artifact),
            ship=chosen(report, t),
            p90=t.p90_ms if t.samples else None,
            p99=t.p99_ms if t.samples else None,
            title="p50 {}, p90 {}, p99 {} ms".format(*_percentiles(t)),
            error=None if t.samples and t.p90_ms is not None else t.p50_ci,
        )
        for t in panel.rows
    ]
    limit = report.limits.get(panel.device, {}).get("p90_ms")
    summary = f"{panel.kind} latency on {panel.device}: " + "; ".join(f"{bar.label} {bar.shown}" for bar in bars)
    picture = _charts.bars(bars, summary, (limit, f"p90 limit {limit:g} ms") if limit else None)
    cells = [(label(t), *_percentiles(t)) for t in panel.rows]
    caption = f"{panel.kind} latency on {panel.device} in ms, with 95 % intervals"
    listed = table(("", "p50", "p90", "p99"), cells, caption)
    known = any(t.samples and t.p90_ms is not None for t in panel.rows)
    whisker = "whisker to p90 (tall tick) and p99" if known else "with its error bar"
    return figure(f"Latency: p50, {whisker}", picture, details(NUMBERS, listed))


def _percentiles(t: Timing) -> tuple[str, str, str]:
    pairs = (t.p50_ms, t.p50_ci), (t.p90_ms, t.p90_ci), (t.p99_ms, t.p99_ci)
    first, second, third = ("—" if value is None else with_interval(value, ci) for value, ci in pairs)
    return (first, second, third) if t.samples else (first, "—", "—")


def spread(report: Report) -> Markup:
    """Distributions of the times."""
    parts = blocks((panel, partial(_spread, report, panel)) for panel in panels(report))
    lead = "Every inference after warm-up counts; none is removed. Outliers are more than 3 scaled median absolute "
    lead += "deviations away from the median."
    return section("spread", "Distributions", *parts, lead=lead) if parts else EMPTY


def _spread(report: Report, panel: Panel) -> Markup:
    rows = [t for t in panel.rows if len(t.samples) > 1 and min(t.samples) > 0 and not t.sampling]
    if not rows:
        return EMPTY
    each = [Spread(label(t), t.samples, precision_tone(report, t.artifact), chosen(report, t)) for t in rows]
    summary = f"Distribution of {panel.kind} times on {panel.device}: "
    summary += "; ".join(f"{label(t)} {ms(min(t.samples))} to {ms(max(t.samples))} ms" for t in rows)
    cells = [
        (label(t), *_percentiles(t), ms(max(t.samples)), percent(t.outliers, 1), f"{len(t.samples):,}", str(t.rounds))
        for t in rows
    ]
    heads = ("", "p50", "p90", "p99", "largest", "outliers", "samples", "rounds")
    listed = table(heads, cells, f"{panel.kind} times on {panel.device} in ms, with 95 % intervals")
    return figure("Times of single inferences", _plots.ridges(each, summary), details(NUMBERS, listed))


def scaling(report: Report) -> Markup:
    """p50 by thread count, if several were timed."""
    parts = blocks((panel, partial(_scaling, report, panel)) for panel in panels(report))
    return section("threads", "Threads", *parts) if parts else EMPTY


def _scaling(report: Report, panel: Panel) -> Markup:
    groups: dict[tuple[str, str], dict[int, float]] = {}
    for t in panel.rows:
        groups.setdefault((t.artifact, t.engine), {})[t.threads] = t.p50_ms
    groups = {key: dict(sorted(by.items())) for key, by in groups.items() if len(by) > 1}
    if not groups:
        return EMPTY
    counts = sorted({count for by in groups.values() for count in by})
    engines = list(dict.fromkeys(engine for _, engine in groups))
    series = [
        Series(artifact, tuple(by.items()), precision_tone(report, artifact), engines.index(engine))
        for (artifact, engine), by in groups.items()
    ]
    summary = f"{panel.kind} p50 by threads on {panel.device}: " + "; ".join(
        f"{artifact} on {engine} {ms(by[min(by)])} ms with {threads(min(by))}, {ms(by[max(by)])} with {max(by)}"
        for (artifact, engine), by in groups.items()
    )
    picture = _plots.lines(series, summary, counts, ("threads", "p50, ms"))
    cells = [
        (artifact, engine, *(ms(by[n]) if n in by else "—" for n in counts), f"{by[min(by)] / by[max(by)]:.2f}{TIMES}")
        for (artifact, engine), by in groups.items()
    ]
    heads = ("artifact", "engine", *(threads(n) for n in counts), "speed-up")
    listed = table(heads, cells, f"{panel.kind} p50 on {panel.device} in ms", words=2)
    dashes = (tag("span", tag("i", class_=f"stroke d{i}"), engine) for i, engine in enumerate(engines))
    return join((tag("p", *dashes, class_="legend"), figure("p50 by threads", picture, details(NUMBERS, listed))))


def end_to_end(report: Report) -> Markup:
    """From an encoded image to a class."""
    parts = blocks((panel, partial(_steps, panel)) for panel in panels(report))
    lead = "Median time of each step from an encoded image to a class."
    return section("steps", "End to end", *parts, lead=lead) if parts else EMPTY


def _steps(panel: Panel) -> Markup:
    rows = [(t, t.steps) for t in panel.rows if t.steps]
    if not rows:
        return EMPTY
    names = ("decode", "preprocess", "infer", "postprocess")
    times = [(s.decode_ms, s.preprocess_ms, s.infer_ms, s.postprocess_ms) for _, s in rows]
    each = [Stack(label(t), tuple(zip(names, values, strict=True))) for (t, _), values in zip(rows, times, strict=True)]
    summary = f"{panel.kind} time from image to class on {panel.device}: "
    summary += "; ".join(f"{label(t)} {ms(s.total_ms)} ms" for t, s in rows)
    cells = [(label(t), *map(ms, values), ms(s.total_ms)) for (t, s), values in zip(rows, times, strict=True)]
    listed = table(("", *names, "complete pass"), cells, f"{panel.kind} steps on {panel.device} in ms")
    return join((_plots.legend(each), figure("Steps", _plots.stacks(each, summary), details(NUMBERS, listed))))


def operators(report: Report) -> Markup:
    """Where the time of one inference goes."""
    first = {panel.device: panel for panel in reversed(panels(report))}  # the best kind of each device
    parts = blocks((panel, partial(_operators, report, panel)) for panel in reversed(first.values()))
    lead = "Time by family of operators. Layers are named as in the torch network."
    return section("operators", "Operators", *parts, lead=lead) if parts else EMPTY


def _operators(report: Report, panel: Panel) -> Markup:
    profiles = hotspots.found(report, panel.device)
    if not profiles:
        return EMPTY
    totals: dict[str, float] = {}
    for each in profiles:
        for row in each.rows:
            totals[row.op] = totals.get(row.op, 0.0) + row.ms
    shown = sorted(totals, key=lambda name: -totals[name])[:FAMILIES]
    each_stack = [Stack(f"{p.artifact} · {p.engine} · {threads(p.threads)}", _families(p, shown)) for p in profiles]
    summary = f"{panel.kind} time by operator on {panel.device}: " + "; ".join(
        f"{stack.label} {', '.join(f'{name} {ms(value)} ms' for name, value in stack.parts[:3])}"
        for stack in each_stack
    )
    names = [*shown, *(["other"] if any(name == "other" for s in each_stack for name, _ in s.parts) else [])]
    cells = [(s.label, *(ms(dict(s.parts).get(name, 0.0)) for name in names)) for s in each_stack]
    listed = table(("", *names), cells, f"{panel.kind} time by operator on {panel.device} in ms")
    hot = [
        details(f"{s.label}: the ten slowest", _hot(p, panel.kind)) for s, p in zip(each_stack, profiles, strict=True)
    ]
    picture = figure("Operators", _plots.stacks(each_stack, summary), details(NUMBERS, listed))
    why = [tag("p", text) for text in hotspots.reasons(report, panel.device)]
    why += [tag("p", text, class_="muted") for text in hotspots.cautions(profiles)]
    return join((*why, _plots.legend(each_stack), picture, *hot))


def _families(profile: OperatorProfile, shown: list[str]) -> tuple[tuple[str, float], ...]:
    by = dict.fromkeys(shown, 0.0)
    rest = 0.0
    for row in profile.rows:
        if row.op in by:
            by[row.op] += row.ms
        else:
            rest += row.ms
    parts = [(name, value) for name, value in by.items() if value > 0]
    return tuple(parts + ([("other", rest)] if rest > 0 else []))


def _hot(profile: OperatorProfile, kind: str) -> Markup:
    rows = sorted(profile.rows, key=lambda row: -row.ms)[:HOT]
    cells = [(r.op, r.layer, r.dtype, r.where, ms(r.ms), percent(r.share, 1)) for r in rows]
    caption = f"{profile.artifact} on {profile.engine} {profile.engine_version}, {kind} by {profile.method}"
    return table(("operator", "layer", "type", "where", "ms", "share"), cells, caption, words=4)


def sustained(report: Report) -> Markup:
    """Sustained load minute by minute, if requested."""
    parts = blocks((panel, partial(_sustained, report, panel)) for panel in panels(report))
    lead = "A large red mark shows a minute in which the device throttled."
    return section("sustained", "Sustained load", *parts, lead=lead) if parts else EMPTY


def _sustained(report: Report, panel: Panel) -> Markup:
    rows = [t for t in panel.rows if t.sustained]
    if not rows:
        return EMPTY
    series = [
        Series(
            f"{t.artifact}, {t.engine}",
            tuple((float(m.minute), m.p50_ms) for m in t.sustained),
            precision_tone(report, t.artifact),
            i,
            frozenset(float(m.minute) for m in t.sustained if m.throttled),
        )
        for i, t in enumerate(rows)
    ]
    last = max(m.minute for t in rows for m in t.sustained)
    step = max(1, last // 8)
    summary = f"{panel.kind} p50 minute by minute on {panel.device}: " + "; ".join(
        f"{label(t)} from {ms(t.sustained[0].p50_ms)} to {ms(t.sustained[-1].p50_ms)} ms" for t in rows
    )
    picture = _plots.lines(
        series, summary, [float(m) for m in range(1, last + 1, step)] + [float(last)], ("minute", "p50, ms")
    )
    words = {None: NOT, True: "throttled", False: "no"}
    cells = [
        (
            label(t),
            str(m.minute),
            *(
                ms(m.p50_ms),
                NOT if m.p90_ms is None else ms(m.p90_ms),
                _or_not(m.temperature_c),
                _or_not(m.clock_mhz),
                words[m.throttled],
            ),
        )
        for t in rows
        for m in t.sustained
    ]
    heads = ("", "minute", "p50 ms", "p90 ms", "°C", "MHz", "throttled")
    listed = table(heads, cells, f"Sustained load on {panel.device}, {panel.kind}")
    return figure("p50 by minute", picture, details(NUMBERS, listed))


def _or_not(value: float | None) -> str:
    return NOT if value is None else number(value, 4)


def memory(report: Report) -> Markup:
    """Peak resident set size, and what the model adds to it."""
    parts = blocks((panel, partial(_memory, report, panel)) for panel in panels(report))
    lead = "Peak resident set size of the measuring process, including the engine."
    return section("memory", "Memory", *parts, lead=lead) if parts else EMPTY


def _memory(report: Report, panel: Panel) -> Markup:
    rows = [t for t in panel.rows if t.rss_bytes]
    if not rows:
        return EMPTY
    rows.sort(key=lambda t: t.rss_bytes)
    bars = [
        Bar(label(t), t.rss_bytes, megabytes(t.rss_bytes), precision_tone(report, t.artifact), chosen(report, t))
        for t in rows
    ]
    limit = report.limits.get(panel.device, {}).get("rss_mb")
    summary = f"Peak memory on {panel.device}: " + "; ".join(f"{bar.label} {bar.shown}" for bar in bars)
    picture = _charts.bars(bars, summary, (limit * 1e6, f"limit {limit:g} MB") if limit else None)
    cells = [(label(t), megabytes(t.rss_bytes), megabytes(t.model_bytes) if t.model_bytes else NOT) for t in rows]
    listed = table(("", "peak", "added by the model"), cells, f"Memory on {panel.device}, {panel.kind}")
    return figure("Peak memory", picture, details(NUMBERS, listed))
