"""A comparison of two reports as text for a terminal and as Markdown for a pull request."""

from __future__ import annotations

from collections.abc import Callable

from edgekit.report.comparison import Change, Comparison, Row
from edgekit.report.formats.markdown import table, text
from edgekit.report.svg import megabytes, ms, percent, threads
from edgekit.runtime.terminal import line

_SUBJECT = ": these reports are not on the same thing"
_HEADS = ("device", "artifact", "engine", "threads", "kind", "p50 ms", "change (95 % interval)", "top-1", "size", "")


def plain(comparison: Comparison, above: float | None) -> str:
    """Lines for a terminal."""
    lines = [f"old: {comparison.old}", f"new: {comparison.new}"]
    lines += [f"warning: {words}{_SUBJECT}" for words in comparison.differs]
    for row in comparison.rows:
        shown = [change for change in row.changes if change.quantity == "p50" or change.new != change.old]
        cells = [f"{c.quantity} {_values(c)}{' ms' if c.quantity == 'p50' else ''} {_shift(c)}" for c in shown]
        lines.append(f"{_mark(row):<10} {_name(row)}: {'; '.join(cells)}")
        lines += [f"{'':<10} warning: {words}" for words in row.differs]
    lines += [f"not compared: {words}" for words in comparison.not_compared]
    lines += [f"only in old: {words}" for words in comparison.only_old]
    lines += [f"only in new: {words}" for words in comparison.only_new]
    return "\n".join(map(line, [*lines, verdict(comparison, above)]))


def markdown(comparison: Comparison, above: float | None) -> str:
    """GitHub-flavoured Markdown; external text is escaped."""
    rows = []
    for row in comparison.rows:
        by = {c.quantity: c for c in row.changes}
        p50 = by["p50"]
        head = (text(row.device), text(row.artifact), text(row.engine), str(row.threads), row.kind)
        rest = (_cell(by.get("top-1")), _cell(by.get("size")), _mark(row))
        rows.append((*head, _values(p50), _shift(p50), *rest))
    warnings = [f"- {text(words)}{_SUBJECT}" for words in comparison.differs]
    warnings += [f"- {text(_name(row))}: {text(words)}" for row in comparison.rows for words in row.differs]
    one_sided = [f"- not compared: {text(words)}" for words in comparison.not_compared]
    one_sided += [f"- only in old: {text(words)}" for words in comparison.only_old]
    one_sided += [f"- only in new: {text(words)}" for words in comparison.only_new]
    blocks = [
        "## edgekit: what changed",
        f"old: {text(comparison.old)}  \nnew: {text(comparison.new)}",
        f"**{text(verdict(comparison, above))}**",
        table(_HEADS, rows, words=3) if rows else "The reports have no row in common.",
        "\n".join(("**Not like for like**", "", *warnings)) if warnings else "",
        "\n".join(one_sided),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def verdict(comparison: Comparison, above: float | None) -> str:
    """One line: how many rows got significantly worse."""
    worse = comparison.regressions(above or 0.0)
    limit = f" of more than {100 * above:g} %" if above else ""
    left_out = sum(not row.counts for row in comparison.rows)
    words = f"{len(worse)} significant regression{'' if len(worse) == 1 else 's'}{limit} in {len(comparison.rows)} rows"
    words += f"; {left_out} measured under different conditions not counted" if left_out else ""
    words += f"; {len(comparison.unclear)} too uncertain to tell" if comparison.unclear else ""
    chance = 0.025 * sum(row.counts for row in comparison.rows)
    return words + (f"; about {chance:.0f} expected by chance alone" if chance >= 1 and not above else "")


def doubt(comparison: Comparison) -> str:
    """One line: rows whose times are too uncertain to tell whether they have changed, with their intervals."""
    rows = [(row, next(change for change in row.changes if change.unclear)) for row in comparison.unclear]
    names = "; ".join(f"{_name(row)}: {change.quantity} {_shift(change)}" for row, change in rows)
    return f"too uncertain to tell whether it has changed: {names}; measure both again on an idle machine"


def _mark(row: Row) -> str:
    states = {change.state for change in row.changes}
    same = "unclear" if any(change.unclear for change in row.changes) else "same"
    word = "worse" if "worse" in states else "better" if "better" in states else same
    return word if row.counts or word == same else f"({word})"


def _name(row: Row) -> str:
    return f"{row.artifact} on {row.engine}, {threads(row.threads)}, {row.device} ({row.kind})"


def _values(change: Change) -> str:
    formats: dict[str, Callable[[float], str]] = {
        "p50": ms,
        "top-1": percent,
        "size": megabytes,
        "instructions": "{:,.0f}".format,
    }
    show = formats[change.quantity]
    return f"{show(change.old)} → {show(change.new)}" if change.old != change.new else show(change.new)


def _shift(change: Change) -> str:
    """The change with its interval: in percent, but in points for top-1, which is itself in percent."""
    scale, unit = (100 * (change.old or 1.0), "points") if change.quantity == "top-1" else (100, "%")
    words = f"{scale * change.relative:+.1f} {unit}"
    return words + (f" ({scale * change.ci[0]:+.1f} to {scale * change.ci[1]:+.1f})" if change.ci else "")


def _cell(change: Change | None) -> str:
    if change is None:
        return "—"
    return _values(change) + (f" ({change.state})" if change.state != "same" else "")
