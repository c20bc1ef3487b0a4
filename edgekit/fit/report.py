"""The pages of a search: ``fit.html`` and ``fit.md``, beside its ``fit.json``."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from edgekit import __version__
from edgekit.disk.atomic import write_text
from edgekit.disk.run_directory import RunDirectory
from edgekit.fit import _cells, _page, frozen
from edgekit.fit._cells import Cell, interval
from edgekit.fit.records import Result
from edgekit.report.formats.markdown import table, text
from edgekit.report.svg import allowed, ms, percent

PAGE, TEXT = "fit.html", "fit.md"


def write(folder: Path, name: str, result: Result) -> None:
    """Write both pages.

    Args:
        folder: of the search.
        name: of the recipe.
        result: what was found.
    """
    created = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    run = RunDirectory(folder / result.chosen).folder("report") / "report.html" if result.chosen else None
    report = run.relative_to(folder).as_posix() if run is not None and run.is_file() else ""
    replay = frozen.RECIPE if result.shipped and (folder / frozen.RECIPE).is_file() else ""
    write_text(folder / PAGE, _page.render(result, name, created, report, replay))
    write_text(folder / TEXT, markdown(result, name, created))


def markdown(result: Result, name: str, created: str) -> str:
    """The outcome as GitHub-flavoured Markdown; names are escaped.

    Args:
        result: of the search.
        name: of the recipe.
        created: when, in words.
    """
    said = _cells.dry_words(result) if _cells.is_dry(result) else result.said or "The search has not ended."
    spent = result.spent
    cost = (
        f"{spent.files} files timed on each device in {spent.device_seconds:.0f} s, {spent.training_seconds:.0f} s of "
        f"training, {spent.seconds:.0f} s in all."
    )
    limits = f"Budget: p{result.percentile} of {result.max_ms:g} ms; of top-1, {allowed(result.max_drop)}."
    models = [f"- {text(device)}: {text(words)}" for device, words in result.models.items()]
    blocks = [
        f"## edgekit fit: {text(name)}",
        text(said),
        limits,
        _shipped(result),
        _candidates(result),
        _widths(result),
        "\n".join(("**Latency model**", "", *models)) if models else "",
        cost,
        f"<sub>edgekit {text(__version__)}, {text(created)}</sub>",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _shipped(result: Result) -> str:
    if not result.shipped:
        return ""
    rows = [
        (
            text(row.device),
            text(_cells.place(row).words),
            row.kind,
            _cell(Cell(ms(row.ms), interval(row.low, row.high))),
            f"{row.file_mb:.3g}",
            percent(result.top1[1]),
        )
        for row in result.shipped
    ]
    heads = (
        "ships on" if result.holds else "measured on",
        "what runs",
        "kind",
        f"p{result.percentile} ms",
        "MB",
        "test top-1",
    )
    return table(heads, rows, words=3)


def _candidates(result: Result) -> str:
    rows = []
    for one in _cells.networks(result):
        name = f"**{text(one.id)}**" if one.id == result.chosen and result.holds else text(one.id)
        words = (text(str(one.net)), text(one.how), text(_cells.state(one, result)))
        rows.append((name, *words, *(_cell(cell) for cell in _cells.cells(one, result))))
    heads = ("network", "of", "how it was chosen", "how it ended", *map(text, _cells.heads(result)))
    where = [f"- {text(at.device)}: {text(at.words)}, {at.kind}" for at in _cells.places(result)]
    return "\n".join((table(heads, rows, words=4), "", *where))


def _cell(cell: Cell) -> str:
    return f"{cell.main} ({cell.more})" if cell.more else cell.main


def _widths(result: Result) -> str:
    one = next((each for each in result.candidates if each.id == result.chosen), None)
    return f"Channels: {text(str(one.plan))}." if one is not None and one.plan is not None else ""
