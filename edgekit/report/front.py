"""The first screen of the HTML report: what ships, how fast it is, and how good."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from edgekit.measurements import Timing, Verdict
from edgekit.report import _bars
from edgekit.report._bars import Bar, Dot
from edgekit.report._panels import DASH, chosen, label, panels, precision_tone, with_interval
from edgekit.report.cautions import cautions
from edgekit.report.charts import tone
from edgekit.report.contents import Report
from edgekit.report.markup import Markup, badge, breakable, join, table, tag
from edgekit.report.svg import TIMES, allowed, megabytes, ms, percent, points, signed, smaller, speed, threads
from edgekit.scores import Accuracy, Difference
from edgekit.verdict.rule import FLOAT

FEW = 3
"""Up to this many devices, each reason is in the table of verdicts; it is with the device in any case."""
MOST = 8
"""Bars or dots on the first screen; the folds have the rest."""
LIMITS = {"p90_ms": ("p90", "ms"), "size_mb": ("size", "MB"), "rss_mb": ("memory", "MB")}


def when(report: Report) -> str:
    """Creation time to the minute, in the time zone that the caller gave."""
    return report.created[:16].replace("T", " ") + (" UTC" if report.created.endswith(("Z", "+00:00")) else "")


def header(report: Report) -> Markup:
    """Title, a description in one line, and the network and data in numbers."""
    facts: list[tuple[str, str]] = []
    checkpoint = report.checkpoint
    if checkpoint is not None:
        facts += [("model", checkpoint.model.name), ("input", str(checkpoint.input))]
        facts += [("parameters", f"{checkpoint.parameters / 1e6:.2f} M")]
        facts += [("multiply-adds", f"{checkpoint.macs / 1e6:.0f} M")]
    if report.data is not None:
        facts += [("classes", str(len(report.data.labels)))]
        facts += [("images", f"{sum(map(sum, report.data.counts.values())):,}")]
    description = str(report.recipe.get("description") or "")
    title = tag(
        "div",
        tag("p", f"edgekit report, {when(report)}", class_="eyebrow"),
        tag("h1", breakable(report.name)),
        tag("p", description, class_="lead") if description else "",
    )
    strip = tag("dl", *(tag("div", tag("dt", name), tag("dd", breakable(value))) for name, value in facts))
    return tag("header", title, strip if facts else "")


def verdict(report: Report) -> Markup:
    """What to ship, and the two answers beside it."""
    alarms = [tag("p", tag("strong", f"{title}. "), words, class_="alarm") for title, words in _broken(report)]
    doubts = [*(("Careful", f"{text}.") for text in report.warnings), *cautions(report)]
    alarms += [tag("p", tag("strong", f"{title}. "), words, class_="alarm caution") for title, words in doubts]
    several = len(report.verdict) > 1
    ship = _table(report) if several else _card(report, report.verdict[0]) if report.verdict else _none(report)
    look = "cards several" if len(report.verdict) > FEW else "cards few" if several else "cards"
    cards = tag("div", ship, _fast(report), _good(report), class_=look)
    heading = tag("h2", "Verdict", id="verdict-h", class_="unseen")
    return tag("section", heading, *alarms, cards, id="verdict", aria_labelledby="verdict-h")


def _broken(report: Report) -> list[tuple[str, str]]:
    found = [
        (f"{row.artifact} on {row.engine} failed verification", problem(row))
        for row in report.accuracy
        if not row.passed
    ]
    return found + [
        (f"{row.artifact} on {row.engine} gives wrong results on {row.device}", f"{row.problem}.")
        for row in report.golden
        if row.problem
    ]


def problem(row: Accuracy) -> str:
    """Why a file failed verification."""
    return row.problem + (f"; first divergent layer: {row.diverges}" if row.diverges else "")


def _none(report: Report) -> Markup:
    skipped = next((s.reason for s in report.stages if s.name == "profile" and s.skipped), "nothing was measured")
    return tag("article", tag("h3", "No verdict"), tag("p", f"profile: {skipped}"), class_="card ships none")


def _card(report: Report, verdict: Verdict) -> Markup:
    """The verdict on the only device."""
    machine, kind = report.machines.get(verdict.device), badge(verdict.kind) if verdict.kind else ""
    place = tag("p", tag("b", verdict.device), f" {machine.cpu}" if machine else "", class_="eyebrow")
    top = tag("div", place, kind, class_="top")
    reason = tag("p", f"{verdict.reason.rstrip('.')}.", class_="reason")
    if verdict.artifact is None or verdict.engine is None or verdict.threads is None:
        heading = tag("h3", "Nothing to ship")
        return tag("article", top, heading, reason, limits(report, verdict.device), class_="card ships none")
    heading = tag("h3", "Ship ", tag("em", verdict.artifact))
    by = "" if verdict.by == "p50" else f"; decided by {verdict.by}"
    where = tag("p", f"on {verdict.engine}, {threads(verdict.threads)}{by}", class_="where")
    facts = []
    file, timing = report.artifact(verdict.artifact), report.timing(verdict)
    if file is not None:
        facts.append((megabytes(file.bytes), "file", smaller(verdict.size_ratio)))
    if timing is not None and timing.rss_bytes:
        facts.append((megabytes(timing.rss_bytes), "peak memory", "with the engine"))
    if timing is not None and timing.load_ms:
        facts.append((f"{ms(timing.load_ms)} ms", "load", "before the first image"))
    if timing is not None and timing.steps is not None:
        facts.append((f"{ms(timing.steps.total_ms)} ms", "end to end", "from encoded image to class"))
    each = (
        tag("div", tag("dd", value), tag("dt", name, tag("small", more) if more else "")) for value, name, more in facts
    )
    listed = tag("dl", *each, class_="tiles")
    return tag("article", top, heading, where, listed, reason, limits(report, verdict.device), class_="card ships")


def limits(report: Report, device: str) -> Markup:
    """The limits of a device in one line, if there are any."""
    found = report.limits.get(device, {})
    words = ", ".join(f"{LIMITS[key][0]} ≤ {v:g} {LIMITS[key][1]}" for key, v in found.items() if key in LIMITS)
    return tag("p", f"Limits of this device: {words}.", class_="muted") if words else Markup("")


def _table(report: Report) -> Markup:
    """The verdicts on several devices."""
    few = len(report.verdict) <= FEW
    heading = tag("h3", *_headline(report.verdict))
    cells = []
    for i, v in enumerate(report.verdict):
        t, file = report.timing(v), report.artifact(v.artifact)
        score = report.score(v.artifact, v.engine, v.device) if v.artifact else None
        ship = tag("strong", v.artifact) if v.artifact else tag("strong", "nothing", class_="none")
        where = tag("small", f"{v.engine}, {threads(v.threads)}") if v.engine and v.threads else ""
        cells.append(
            (
                join((tag("a", breakable(v.device), href=f"#device-{i + 1}"), " ", badge(v.kind) if v.kind else "")),
                join((ship, where)),
                *([tag("span", f"{v.reason.rstrip('.')}.", class_="why")] if few else []),
                join((ms(t.p50_ms), tag("small", interval(t)))) if t else "—",
                _against(report, v),
                join((percent(score.top1), tag("small", _change(v.top1_drop, score.lost)))) if score else "—",
                megabytes(file.bytes) if file else "—",
            )
        )
    heads = ("device", "ship", *(["why"] if few else []), "p50, ms", "against float", "top-1", "size")
    caption = "Numbers of different kinds (measured, emulated, estimated) are never compared"
    listed = table(heads, cells, caption, words=3 if few else 2, stack=True)
    return tag("article", heading, listed, class_="card ships")


def _headline(verdicts: Sequence[Verdict]) -> list[str]:
    """``Ship tflite-int8 on 9 of 10 devices``; with few devices that differ, one by one."""
    names = Counter(v.artifact for v in verdicts if v.artifact)
    every = len(verdicts)
    if not names:
        return ["Nothing to ship"]
    if len(names) == 1 and names.total() == every:
        return ["Ship ", tag("em", *names), " on both devices" if every == 2 else f" on all {every} devices"]
    if every <= FEW:
        ships = [[tag("em", v.artifact) if v.artifact else "nothing", f" on {v.device}"] for v in verdicts]
        return ["Ship ", *ships[0], *(word for each in ships[1:] for word in (", ", *each))]
    best, count = names.most_common(1)[0]
    return ["Ship ", tag("em", best), f" on {count} of {every} devices"]


def _change(drop: float | None, lost: Difference | None) -> str:
    if drop is None:
        return ""
    ends = f" ({signed(-lost.high)} to {signed(-lost.low)})" if lost else ""
    return f"{signed(-drop)} points{ends}" if abs(drop) >= 0.005 else "as float"


def _against(report: Report, verdict: Verdict) -> str:
    """``2.0 x``, ``3.8 % faster``, ``float ships``."""
    if not verdict.artifact:
        return "—"
    gain = speed(verdict.speedup)
    if gain is None:
        return _why_no_gain(report, verdict)
    number, words = gain
    return number if words.startswith("as fast") else f"{number} {words.split()[0]}"


def _why_no_gain(report: Report, verdict: Verdict) -> str:
    file = report.artifact(verdict.artifact)
    return "float ships" if file is not None and file.precision in FLOAT else "no float file"


def interval(t: Timing) -> str:
    """``0.823-0.865``, with an en dash, or p90 if there is no interval."""
    if t.p50_ci:
        return f"{ms(t.p50_ci[0])}{DASH}{ms(t.p50_ci[1])}"
    return f"p90 {ms(t.p90_ms)}" if t.samples and t.p90_ms is not None else ""


def _fast(report: Report) -> Markup:
    """How fast? One device: p50 of its files. Several: the gain over float on each."""
    if len(report.verdict) > 1:
        return _gains(report)
    panel = next(iter(panels(report)), None)
    if panel is None:
        return Markup("")
    rows = [t for t in panel.rows if not t.reference]
    if len(rows) > MOST:  # the fastest thread count of each file and engine
        best: dict[tuple[str, str], Timing] = {}
        for t in rows:
            best.setdefault((t.artifact, t.engine), t)
        rows = [t for t in rows if best[t.artifact, t.engine] is t or chosen(report, t)]
        rows = sorted(rows, key=lambda t: not chosen(report, t))[:MOST]
        rows.sort(key=lambda t: t.p50_ms)
    if not rows:
        return Markup("")
    bars = [latency_bar(report, t) for t in rows]
    bound = report.limits.get(panel.device, {}).get("p90_ms")
    summary = f"{panel.kind} latency on {panel.device}: " + "; ".join(f"{bar.label} {bar.shown}" for bar in bars)
    picture = _bars.bars(bars, summary, (bound, f"p90 limit {bound:g} ms") if bound else None)
    verdict = report.verdict[0] if report.verdict else None
    shipped = report.timing(verdict) if verdict else None
    if verdict is None or shipped is None:
        return _answer("fast", "How fast?", "—", "nothing ships", "", tag("div", picture, class_=f"kind-{panel.kind}"))
    words = f"p50 of one inference{f', 95 % interval {interval(shipped)} ms' if shipped.p50_ci else ''}"
    words += f"; float: {verdict.baseline}" if verdict.baseline else ""
    gain = " ".join(speed(verdict.speedup) or (_why_no_gain(report, verdict),))
    body = tag("div", picture, class_=f"kind-{panel.kind}")
    return _answer("fast", "How fast?", f"{ms(shipped.p50_ms)} ms", gain, f"{words}.", body)


def _gains(report: Report) -> Markup:
    rows, parts = [(v, report.timing(v)) for v in report.verdict], []
    ratios = [v.speedup or 1.0 for v, _ in rows if v.artifact]
    for v, t in rows:
        if v.artifact is None or t is None:
            parts.append((v, Bar(v.device, 0, "nothing ships", "tone-other")))
        else:
            shown = _against(report, v)
            parts.append((v, Bar(v.device, v.speedup or 1.0, shown, precision_tone(report, v.artifact))))
    if not any(bar.value for _, bar in parts):
        every = _beside(report) if len(parts) <= FEW else Markup("")
        return _answer("fast", "How fast?", "—", "nothing ships", "", every)
    summary = "p50 of the fastest float file over p50 of what ships: "
    summary += "; ".join(f"{bar.label} {bar.shown}" for _, bar in parts)
    picture = _bars.bars(
        [bar for _, bar in parts], summary, (1.0, "as fast as float"), styles=[f"kind-{v.kind}" for v, _ in parts]
    )
    if len(parts) <= FEW:
        picture = _beside(report)
    low, high = min(ratios), max(ratios)
    if all(v.speedup is None for v, _ in rows):
        head, more = "—", "nothing that ships was compared with a float file"
    elif f"{low:.1f}" == f"{high:.1f}":
        head, more = speed(high) or ("", "")
    else:
        head, more = f"{_ratio(low)} to {_ratio(high)}", "as fast as float"
    words = "p50 of the fastest float file over p50 of what ships, on the same device."
    return _answer("fast", "How fast?", head, more, words, picture)


def _ratio(value: float) -> str:
    return f"{value:.1f}{TIMES}" if value >= 1.1 or value == 1 else f"{value:.2f}{TIMES}"


def _beside(report: Report) -> Markup:
    """What ships on each device beside the fastest of the rest there, each device on its own scale."""
    parts = []
    for v in report.verdict:
        panel = next((panel for panel in panels(report) if panel.device == v.device), None)
        rows = [t for t in panel.rows if not t.reference] if panel else []
        names = {id(t): f"{t.artifact} on {t.engine}, {threads(t.threads)}" for t in rows}
        rows.sort(key=lambda t: (not chosen(report, t), names[id(t)] != v.baseline))
        if panel is None or not rows:
            continue
        bars = [latency_bar(report, t) for t in sorted(rows[: MOST // len(report.verdict)], key=lambda t: t.p50_ms)]
        summary = f"{panel.kind} latency on {v.device}: " + "; ".join(f"{bar.label} {bar.shown}" for bar in bars)
        parts.append(tag("p", breakable(v.device), " ", badge(panel.kind), class_="device-name"))
        parts.append(tag("div", _bars.bars(bars, summary), class_=f"kind-{panel.kind}"))
    return join(parts)


def latency_bar(report: Report, t: Timing) -> Bar:
    """p50 of one timing, with p90 and p99 or its error bar."""
    known = bool(t.samples) and t.p90_ms is not None
    more = f", p90 {ms(t.p90_ms)}" if known and t.p90_ms is not None else ""
    more += f", p99 {ms(t.p99_ms)}" if known and t.p99_ms is not None else ""
    return Bar(
        label=label(t),
        value=t.p50_ms,
        shown=f"{ms(t.p50_ms)} ms",
        tone=precision_tone(report, t.artifact),
        ship=chosen(report, t),
        p90=t.p90_ms if known else None,
        p99=t.p99_ms if known else None,
        title=f"p50 {with_interval(t.p50_ms, t.p50_ci)}{more} ms",
        error=None if known else t.p50_ci,
    )


def _good(report: Report) -> Markup:
    """How good? Top-1 of each file in each engine, against the float network and what may be lost."""
    device = report.devices[0] if report.devices else "host"
    pairs = list(dict.fromkeys((row.artifact, row.engine) for row in report.accuracy if row.engine != "torch"))
    scores = [score for pair in pairs if (score := report.score(*pair, device)) is not None]
    if not scores:
        return _answer("good", "How good?", "—", "nothing was scored", "", "") if report.latency else Markup("")
    shipped = [(v, s) for v in report.verdict if v.artifact and (s := report.score(v.artifact, v.engine, v.device))]
    names = {(v.artifact, v.engine) for v, _ in shipped}
    scores = sorted(scores, key=lambda s: ((s.artifact, s.engine) not in names, -s.top1))[:MOST]
    float_ = report.reference
    bound = float_.top1 - report.max_drop / 100 if float_ and report.max_drop is not None else None
    dots = []
    for s in sorted(scores, key=lambda s: -s.top1):
        file, passed = report.artifact(s.artifact), "" if s.passed else ", failed"
        look = tone(file.precision if file else "")
        shown, ship = f"{percent(s.top1)}{passed}", (s.artifact, s.engine) in names
        dots.append(Dot(f"{s.artifact} · {s.engine}", s.top1, shown, look, ship))
    summary = "Top-1 on the test images: " + "; ".join(f"{dot.label} {dot.shown}" for dot in dots)
    lines = (
        ((float_.top1, f"torch fp32, {percent(float_.top1)}") if float_ else None),
        ((bound, f"lowest allowed, {percent(bound)}") if bound is not None else None),
    )
    picture = _bars.dots(dots, summary, *lines)
    if not shipped:
        return _answer("good", "How good?", "—", "nothing ships", "", picture)
    low, high = (each(s.top1 for _, s in shipped) for each in (min, max))
    top = percent(high) if percent(low) == percent(high) else f"{percent(low)} to {percent(high)}"
    drops = [v.top1_drop for v, _ in shipped if v.top1_drop is not None]
    lost = points(max(drops)) if drops else ""
    bounded = f", {allowed(report.max_drop)}" if report.max_drop is not None else ""
    worst = min((s.agreement for _, s in shipped if s.agreement is not None), default=None)
    words = f"top-1 on {shipped[0][1].images:,} test images{bounded}"
    words += f"; {percent(worst)} of the answers are those of the float network" if worst is not None else ""
    return _answer("good", "How good?", top, lost, f"{words}.", picture)


def _answer(ident: str, question: str, number: str, more: str, words: str, picture: str) -> Markup:
    return tag(
        "article",
        tag("h3", question),
        tag("p", tag("b", number), " ", tag("span", more), class_="big"),
        tag("p", words, class_="muted") if words else "",
        picture,
        class_="card answer",
        id=ident,
    )
