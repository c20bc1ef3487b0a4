"""The tables that commands end with: the network after training or pruning, the files, their times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekit.types import HOST_ENGINES

if TYPE_CHECKING:
    from edgekit.pipeline.results import Results
    from edgekit.pipeline.run import Outcome

Row = Sequence[str]


def table(heads: Row, rows: Sequence[Row]) -> str:
    """Columns as wide as their longest cell; the first is aligned left, and so is every column of words.

    Args:
        heads: one for each column.
        rows: cells, as many as there are heads.
    """
    columns = list(zip(heads, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numbers = [all(not cell or cell[0] in "0123456789-+<" for cell in column[1:]) for column in columns]
    lines = []
    for row in (heads, *rows):
        cells = [
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, numbers, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def network(results: Results) -> str:
    """The float network: its size, its scores and, if it was pruned, what that changed."""
    checkpoint, pruning = results.checkpoint, results.pruning
    if checkpoint is None:
        return ""
    lines = [f"{checkpoint.parameters / 1e6:.3g} M parameters, {checkpoint.macs / 1e6:.3g} M multiply-adds"]
    if pruning:
        lines[0] += f" (before pruning {pruning.parameters[0] / 1e6:.3g} M and {pruning.macs[0] / 1e6:.3g} M)"
        top1 = zip(("unpruned", "pruned", "recovered"), pruning.accuracy, strict=True)
        known = [f"{name} {100 * value:.1f} %" for name, value in top1 if value is not None]
        if known:
            lines.append("validation top-1: " + ", ".join(known))
    elif checkpoint.metrics:
        rows = [(m.split, str(m.images), f"{100 * m.accuracy:.1f} %", f"{m.f1:.3f}") for m in checkpoint.metrics]
        lines.append(table(("split", "images", "top-1", "macro F1"), rows))
    else:
        lines.append("not scored: the network was not trained here")
    return "\n".join(lines)


def files(results: Results) -> str:
    """The exported files and how they compare with torch."""
    judges = {artifact.id: HOST_ENGINES[artifact.format] for artifact in results.artifacts}
    here = (row for row in results.accuracy if row.device == "host")
    scores = {row.artifact: row for row in here if row.engine == judges.get(row.artifact)}
    rows = []
    for artifact in results.artifacts:
        score = scores.get(artifact.id)
        top1 = f"{100 * score.top1:.1f} %" if score else "not verified"
        away = "" if score is None or score.max_steps is None else f"{score.max_steps:.0f} steps"
        if score is not None and score.max_steps is None and score.max_difference is not None:
            away = f"{score.max_difference:.1e}"
        floats = "" if artifact.precision == "fp32" else str(len(artifact.float_op_names))
        lost = score.lost if score else None
        change = f"{-lost.points:+.2f} ({-lost.high:+.2f} to {-lost.low:+.2f})" if lost else ""
        rows.append((artifact.id, f"{artifact.bytes / 1e6:.3f}", top1, change, away, floats))
    reference = next((row for row in results.accuracy if row.artifact == "torch-fp32"), None)
    if not rows:
        return ""
    lines = [table(("file", "MB", "top-1", "against fp32 (95 % interval)", "from torch", "float operators"), rows)]
    if reference:
        lines.append(f"top-1 of torch: {100 * reference.top1:.1f} % of {reference.images} {reference.split} images")
    return "\n".join(lines)


def latency(results: Results) -> str:
    """Times of every file on every device, the fastest first."""
    order = {device: place for place, device in enumerate(dict.fromkeys(t.device for t in results.latency))}
    rows = []
    for timing in sorted(results.latency, key=lambda t: (order[t.device], t.kind, t.batch, t.p50_ms)):
        ends = "" if timing.p50_ci is None else f"{_number(timing.p50_ci[0])} to {_number(timing.p50_ci[1])}"
        whole = "" if timing.steps is None else _number(timing.steps.total_ms)
        p90 = "" if timing.p90_ms is None else _number(timing.p90_ms)
        memory = f"{timing.rss_bytes / 1e6:.0f}" if timing.rss_bytes else ""
        where = (timing.device, timing.artifact, timing.engine, str(timing.threads), str(timing.batch), timing.kind)
        rows.append((*where, _number(timing.p50_ms), ends, p90, whole, memory))
    heads = ("device", "file", "engine", "threads", "batch", "kind", "p50 ms", "95 % interval", "p90 ms")
    return table((*heads, "end to end ms", "peak MB"), rows) if rows else ""


def undecided(outcome: Outcome) -> dict[str, str]:
    """Devices whose times do not tell which file is the fastest, and why, one sentence each.

    After a command that chooses nothing, the times alone say so.
    """
    from edgekit.verdict import noise, rule

    if outcome.verdict:
        return {verdict.device: verdict.reason for verdict in outcome.verdict if verdict.undecided}
    results, found = outcome.results, {}
    for device in dict.fromkeys(t.device for t in results.latency):
        rows = rule.uncertain(results.artifacts, [t for t in results.latency if t.device == device])
        if rows:
            machine = results.machines.get(device)
            found[device] = noise.words(rows, machine.cores if machine else None, "which file is the fastest")
    return found


def _number(ms: float) -> str:
    return f"{ms:#.3g}".rstrip(".") if ms < 1000 else f"{ms:.0f}"
