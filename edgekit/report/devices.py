"""The fold of one device in the HTML report; every chart has a table, and every block names its kind of timing."""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgekit.measurements import OperatorProfile, Timing, Verdict
from edgekit.report import _bars, _plots, charts, hotspots
from edgekit.report._bars import Bar, Stack
from edgekit.report._panels import EMPTY, Panel, chosen, label, legend, panels, precision_tone, with_interval
from edgekit.report._plots import Series, Spread
from edgekit.report.cautions import cautions
from edgekit.report.charts import MARKS, Point
from edgekit.report.contents import Report
from edgekit.report.front import latency_bar, limits
from edgekit.report.markup import Markup, badge, details, figure, fold, join, table, tag
from edgekit.report.results import machine_words, measurements
from edgekit.report.svg import TIMES, megabytes, ms, number, percent, speed, threads

NUMBERS = "Numbers of this chart"
FAMILIES = 6
"""Number of operator families with a bar of their own; the rest are combined."""
HOT = 10
NOT = "not measured"


def device(report: Report, name: str) -> Markup:
    """Everything about one device: its verdict, its charts by kind, and all its numbers."""
    verdict = next((v for v in report.verdict if v.device == name), None)
    shown = [panel for panel in panels(report) if panel.device == name]
    machine, body = report.machines.get(name), []
    if verdict is not None:
        body += [tag("p", f"{verdict.reason.rstrip('.')}.", class_="reason"), limits(report, name)]
    body += [tag("p", machine_words(machine), class_="muted")] if machine else []
    body += [
        tag("p", tag("strong", f"{title}. "), words, class_="alarm caution")
        for title, words in cautions(report, (name,))
    ]
    for panel in shown:
        head = tag("h4", "Times ", badge(panel.kind)) if len(shown) > 1 else EMPTY
        figures = (_scatter, _latency, _spread, _scaling, _steps, _memory, _sustained)
        made = [part for make in figures if (part := make(report, panel))]
        last = _operators(report, panel) if panel is shown[0] else EMPTY
        inside = (legend(report, panel.rows), side_by_side(made), last)
        body.append(tag("div", head, *inside, class_=f"kind-{panel.kind}"))
    numbers = measurements(report, name)
    body += [tag("h4", "All measurements"), *numbers] if numbers else []
    kinds = join(badge(panel.kind) for panel in shown)
    ident = f"device-{report.devices.index(name) + 1}"
    return fold(ident, name, _digest(report, name, verdict), *body, marks=kinds, class_="fold device")


def side_by_side(figures: Sequence[Markup]) -> Markup:
    """Figures in two columns of about the same height: each goes where there is more room. On a phone, one column."""
    columns: list[list[Markup]] = [[], []]
    heights = [0, 0]
    for each in figures:
        drawn = re.search(r'viewBox="0 0 \S+ (\d+)', each)
        height = 100 + (round(1.25 * int(drawn[1])) if drawn else 30 * each.count('class="row'))
        shorter = heights.index(min(heights))
        columns[shorter].append(each)
        heights[shorter] += height
    return tag("div", *(tag("div", *column) for column in columns if column), class_="columns")


def _digest(report: Report, name: str, verdict: Verdict | None) -> str:
    failed = sum(f.device == name for f in report.failures)
    more = f"; {failed} not measured" if failed else ""
    if verdict is None or verdict.artifact is None or verdict.engine is None or verdict.threads is None:
        return f"nothing to ship{more}"
    t, gain = report.timing(verdict), speed(verdict.speedup)
    words = f"ship {verdict.artifact} on {verdict.engine}, {threads(verdict.threads)}"
    words += f": {ms(t.p50_ms)} ms" if t else ""
    return words + (f", {' '.join(gain)}" if gain else "") + more


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
    lead = "Up and to the left is better; larger marks are larger files, ✓ ships. Marks that would cover each other "
    lead += "are moved, and a thin line leads to their place."
    picture = join((charts.scatter(points, summary, reference, bound), tag("p", lead, class_="note")))
    return figure("Top-1 against p50", picture, details(NUMBERS, listed))


def _latency(report: Report, panel: Panel) -> Markup:
    bars = [latency_bar(report, t) for t in panel.rows]
    limit = report.limits.get(panel.device, {}).get("p90_ms")
    summary = f"{panel.kind} latency on {panel.device}: " + "; ".join(f"{bar.label} {bar.shown}" for bar in bars)
    picture = _bars.bars(bars, summary, (limit, f"p90 limit {limit:g} ms") if limit else None)
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
    lead = "Every inference after warm-up counts; none is removed. Outliers are more than 3 scaled median absolute "
    lead += "deviations away from the median."
    picture = join((_plots.ridges(each, summary), tag("p", lead, class_="note")))
    return figure("Times of single inferences", picture, details(NUMBERS, listed))


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
    return figure("p50 by threads", picture, tag("p", *dashes, class_="legend"), details(NUMBERS, listed))


def _steps(report: Report, panel: Panel) -> Markup:
    rows = [(t, t.steps) for t in panel.rows if t.steps]
    if not rows:
        return EMPTY
    names = ("decode", "preprocess", "infer", "postprocess")
    times = [(s.decode_ms, s.preprocess_ms, s.infer_ms, s.postprocess_ms) for _, s in rows]
    each = [
        Stack(label(t), tuple(zip(names, values, strict=True)), s.total_ms)
        for (t, s), values in zip(rows, times, strict=True)
    ]
    summary = f"{panel.kind} time from image to class on {panel.device}: "
    summary += "; ".join(f"{label(t)} {ms(s.total_ms)} ms" for t, s in rows)
    cells = [(label(t), *map(ms, values), ms(s.total_ms)) for (t, s), values in zip(rows, times, strict=True)]
    listed = table(("", *names, "complete pass"), cells, f"{panel.kind} steps on {panel.device} in ms")
    lead = "Medians from an encoded image to a class. The number is that of complete passes; the medians of the steps "
    lead += "need not add up to it."
    picture = join((_bars.stacks(each, summary), tag("p", lead, class_="note")))
    return figure("End to end", picture, details(NUMBERS, listed))


def _operators(report: Report, panel: Panel) -> Markup:
    profiles = hotspots.found(report, panel.device)
    if not profiles:
        return EMPTY
    totals: dict[str, float] = {}
    for each in profiles:
        for row in each.rows:
            totals[row.op] = totals.get(row.op, 0.0) + row.ms
    shown = sorted(totals, key=lambda name: -totals[name])[:FAMILIES]
    parts = [dict(_families(p, shown)) for p in profiles]
    titles = [f"{p.artifact} · {p.engine} · {threads(p.threads)}" for p in profiles]
    blocks = []
    for p, title, by in zip(profiles, titles, parts, strict=True):
        bars = [Bar(name, v, f"{ms(v)} ms", precision_tone(report, p.artifact)) for name, v in by.items()]
        summary = f"{panel.kind} time by operator of {title} on {panel.device}: "
        summary += ", ".join(f"{bar.label} {bar.shown}" for bar in bars)
        blocks.append(figure(title, _bars.bars(bars, summary), details("The ten slowest", _hot(p, panel.kind))))
    names = [*shown, *(["other"] if any("other" in by for by in parts) else [])]
    cells = [(title, *(ms(by.get(name, 0.0)) for name in names)) for title, by in zip(titles, parts, strict=True)]
    listed = table(("", *names), cells, f"{panel.kind} time by operator on {panel.device} in ms")
    why = [tag("p", text) for text in hotspots.reasons(report, panel.device)]
    why += [tag("p", text, class_="muted") for text in hotspots.cautions(profiles)]
    inside = tag("div", *blocks, class_="figures")
    title = "Operators: the families that take the time; layers are named as in the torch network"
    return figure(title, inside, *why, details("Numbers of these charts", listed), class_="wide")


def _families(profile: OperatorProfile, shown: list[str]) -> tuple[tuple[str, float], ...]:
    by = dict.fromkeys(shown, 0.0)
    rest = 0.0
    for row in profile.rows:
        if row.op in by:
            by[row.op] += row.ms
        else:
            rest += row.ms
    parts = [(name, value) for name, value in by.items() if value > 0]
    parts.sort(key=lambda part: -part[1])
    return tuple(parts + ([("other", rest)] if rest > 0 else []))


def _hot(profile: OperatorProfile, kind: str) -> Markup:
    rows = sorted(profile.rows, key=lambda row: -row.ms)[:HOT]
    cells = [(r.op, r.layer, r.dtype, r.where, ms(r.ms), percent(r.share, 1)) for r in rows]
    caption = f"{profile.artifact} on {profile.engine} {profile.engine_version}, {kind} by {profile.method}"
    return table(("operator", "layer", "type", "where", "ms", "share"), cells, caption, words=4)


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
        series, summary, sorted({*map(float, range(1, last + 1, step)), float(last)}), ("minute", "p50, ms")
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
    picture = _bars.bars(bars, summary, (limit * 1e6, f"limit {limit:g} MB") if limit else None)
    cells = [(label(t), megabytes(t.rss_bytes), megabytes(t.model_bytes) if t.model_bytes else NOT) for t in rows]
    listed = table(("", "peak", "added by the model"), cells, f"Memory on {panel.device}, {panel.kind}")
    return figure("Peak memory", picture, details(NUMBERS, listed))
