"""Sections of the HTML report on what was done to the network: pruning, rewrites, quantization."""

from __future__ import annotations

from edgekit.report import _bars
from edgekit.report._bars import Bar
from edgekit.report.contents import Report
from edgekit.report.markup import Markup, badge, details, figure, fold, table, tag
from edgekit.report.svg import ms, number, percent
from edgekit.types import Pruning, Quantization, Rung, Sensitivity

EMPTY = Markup("")
ARROW = " → "
SHOWN = 15
"""Number of layers in the sensitivity chart; its table lists all of them."""


def pruning(report: Report) -> Markup:
    """What was pruned, at what cost and with what benefit."""
    pruning = report.pruning
    if pruning is None:
        return EMPTY
    rows = [
        ("parameters", f"{pruning.parameters[0]:,}", f"{pruning.parameters[1]:,}", _share(pruning.parameters)),
        ("multiply-adds", f"{pruning.macs[0]:,}", f"{pruning.macs[1]:,}", _share(pruning.macs)),
    ]
    if pruning.latency_ms is not None:
        rows.append(("p50, ms", ms(pruning.latency_ms[0]), ms(pruning.latency_ms[1]), _share(pruning.latency_ms)))
    whole, pruned, recovered = pruning.accuracy
    rows.append(("validation top-1", percent(whole), percent(recovered), ""))
    words = f"Score {pruning.score}, target {pruning.target}. "
    words += f"Validation top-1 after pruning, before recovery: {percent(pruned)}. " if pruned is not None else ""
    words += f"Latency: {pruning.latency_where}."
    return fold(
        "pruning",
        "Pruning",
        f"{_share(pruning.macs)} of the multiply-adds and {_share(pruning.parameters)} of the parameters are left",
        tag("p", words, class_="lead"),
        table(("", "before", "after", "kept"), rows, "The network before and after pruning"),
        details("Channels by layer", _channels(pruning)),
    )


def _channels(pruning: Pruning) -> Markup:
    rows = [(layer, str(before), str(after)) for layer, (before, after) in pruning.channels.items()]
    return table(("layer", "channels", "kept"), rows, "Output channels of each layer")


def _share(pair: tuple[float, float]) -> str:
    return f"{pair[1] / pair[0]:.0%}".replace("%", " %") if pair[0] else "—"


def rewrites(report: Report) -> Markup:
    """Which graph rewrites were applied, and their measured effect."""
    if not report.rewrites:
        return EMPTY
    rows = []
    for each in report.rewrites:
        times = "; ".join(f"{engine} {ms(a)}{ARROW}{ms(b)}" for engine, (a, b) in each.ms.items())
        applied = badge("applied" if each.applied else "left out")
        rows.append((each.name, each.artifact or each.scope, applied, each.reason, times or "—"))
    heads = ("rewrite", "scope", "", "why", "p50 in ms, without → with it")
    lead = "Graph rewrites preserve the float function; file rewrites compute the same integers differently."
    digest = f"{sum(each.applied for each in report.rewrites)} of {len(report.rewrites)} applied"
    return fold("rewrites", "Rewrites", digest, tag("p", lead, class_="lead"), table(heads, rows, "Rewrites", words=5))


def quantization(report: Report) -> Markup:
    """Calibration, the gain of each correction, the rescue ladder and the most sensitive layers."""
    quantization = report.quantization
    if quantization is None:
        return EMPTY
    digest = f"{quantization.images} calibration images"
    taken = next((rung.name for rung in quantization.rungs if rung.chosen), None)
    digest += f"; rung “{taken}” was chosen" if taken else ""
    parts = [tag("p", f"Calibration images: SHA-256 {quantization.calibration_sha256[:12]}…", class_="lead")]
    parts += [tag("p", quantization.note, class_="muted")] if quantization.note else []
    if quantization.open_ends:
        plural = "s" if quantization.open_ends > 1 else ""
        parts.append(
            tag("p", f"{quantization.open_ends} kernel{plural} may round to a neighbouring step in other engines.")
        )
    parts += [tag("p", symmetry(quantization))] if quantization.symmetry else []
    parts += [
        part
        for part in (_gains(quantization), _ladder(report, quantization), _sensitivity(quantization.sensitivity))
        if part
    ]
    if quantization.ranges:
        rows = list(quantization.ranges.items())
        parts.append(details("Range rule by tensor", table(("tensor", "rule"), rows, "Range rules", words=2)))
    return fold("quantization", "Quantization", digest, *parts)


def symmetry(quantization: Quantization) -> str:
    """What symmetric activations cost, in a sentence; "" if they are affine."""
    cost = quantization.symmetry
    if cost is None:
        return ""
    (affine, own), (affine_agrees, own_agrees) = cost.accuracy, cost.agreement
    apart = f"{abs(cost.lost):.2f} points {'below' if cost.lost >= 0 else 'above'} affine ones ({percent(affine)})"
    return (
        f"Symmetric activations: top-1 {percent(own)}, {apart}; agree with fp32 {percent(own_agrees)}, affine ones "
        f"{percent(affine_agrees)}; both in torch's integer arithmetic, on the same {cost.images}."
    )


def _gains(quantization: Quantization) -> Markup:
    if not quantization.gains:
        return EMPTY
    rows = [
        (g.choice, *(number(v) for v in g.sqnr_db), *(percent(v, 1) for v in g.agreement)) for g in quantization.gains
    ]
    heads = ("choice", "SQNR dB without", "with", "agreement without", "with")
    return table(heads, rows, "Gain of each correction, on training images not used for calibration")


def _ladder(report: Report, quantization: Quantization) -> Markup:
    if not quantization.rungs:
        return EMPTY
    engines = tuple(dict.fromkeys(name for rung in quantization.rungs for name in rung.latency_ms))
    rows = []
    for rung in quantization.rungs:
        state = badge("chosen") if rung.chosen else badge("holds" if rung.holds else "falls short")
        rows.append(
            (
                rung.name,
                tag("code", rung.settings) if rung.settings else "—",
                badge("failed") if rung.problem else state,
                percent(rung.accuracy),
                percent(rung.agreement),
                "—" if rung.drop is None else f"{rung.drop:.2f}",
                *(_timed(rung, name) for name in engines),
                f"{rung.seconds:.0f}",
            )
        )
    heads = ("rung", "sets", "", "top-1", "agrees with fp32", "points lost", *(f"{e}, ms" for e in engines), "seconds")
    bound = "" if report.max_drop is None else f", max_drop {report.max_drop:g}"
    chosen = [i for i, rung in enumerate(quantization.rungs) if rung.chosen]
    problems = [
        tag("p", tag("strong", f"{r.name}: "), r.problem, class_="alarm") for r in quantization.rungs if r.problem
    ]
    caption = f"The rescue ladder on the validation split{bound}"
    return tag("div", table(heads, rows, caption, words=3, ship=chosen), *problems)


def _timed(rung: Rung, engine: str) -> str:
    if engine not in rung.latency_ms:
        return "—"
    return ms(rung.latency_ms[engine]) + (f" (as {rung.latency_of})" if rung.latency_of else "")


def _sensitivity(layers: tuple[Sensitivity, ...]) -> Markup:
    if not layers:
        return EMPTY
    worst = layers[:SHOWN]
    rows = [
        Bar(
            s.layer, 100 * _noise(s.sqnr_db), f"{_noise_words(s.sqnr_db)}, {percent(s.agreement, 1)} agree", "tone-int8"
        )
        for s in worst
    ]
    summary = "Most sensitive layers: " + "; ".join(f"{bar.label} {bar.shown}" for bar in rows)
    listed = [(s.layer, _noise_words(s.sqnr_db), number(s.sqnr_db), percent(s.agreement, 1)) for s in layers]
    heads = ("layer", "noise", "SQNR dB", "agreement")
    return figure(
        f"Noise in the logits, relative to their size, if only one layer is quantized ({len(worst)} most sensitive)",
        _bars.bars(rows, summary),
        details("All layers", table(heads, listed, "Sensitivity of every layer")),
    )


def _noise(sqnr_db: float) -> float:
    """Root mean square of the noise over that of the signal; an SQNR is 20 times the logarithm of the inverse."""
    return float(10 ** (-sqnr_db / 20))


def _noise_words(sqnr_db: float) -> str:
    return f"{100 * _noise(sqnr_db):#.3g} %"
