"""The pages of a search: ``tune.html`` and ``tune.md``, beside its ``tune.json``."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from edgekit import __version__
from edgekit.disk.atomic import write_text
from edgekit.report.formats.markdown import table, text
from edgekit.report.svg import percent
from edgekit.tune import _page, findings
from edgekit.tune.records import Result

PAGE, TEXT = "tune.html", "tune.md"


def write(folder: Path, result: Result) -> None:
    """Write both pages.

    Args:
        folder: of the search.
        result: what was found.
    """
    created = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    write_text(folder / PAGE, _page.render(result, created))
    write_text(folder / TEXT, markdown(result, created))


def markdown(result: Result, created: str) -> str:
    """The outcome as GitHub-flavoured Markdown; names are escaped.

    Args:
        result: of the search.
        created: when, in words.
    """
    blocks = [
        f"## edgekit tune: {text(result.name)}",
        text(result.said),
        _table(result),
        "\n".join(f"- {text(target)}: {text(of)}" for target, of in findings.measured_on(result)),
        _importance(result),
        f"Sampler: {result.sampler}; pruner: {result.pruner}.",
        f"<sub>edgekit {text(__version__)}, {text(created)}</sub>",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _table(result: Result) -> str:
    keys = list(result.space)
    heads = ("trial", *map(text, keys), "how it ended", *(text(target.name) for target in result.targets))
    rows = [
        (
            f"**{one.number}**" if one.number in result.front else str(one.number),
            *map(text, findings.settings(one, keys)),
            text(findings.state(one)),
            *findings.values(one, result.targets),
        )
        for one in findings.ranked(result)
    ]
    return table(heads, rows, words=2 + len(keys))


def _importance(result: Result) -> str:
    if not result.importance:
        return ""
    shares = ", ".join(f"{text(key)} {percent(share, 0)}" for key, share in result.importance.items())
    return f"Of the variance of {text(result.targets[0].name)} is explained by: {shares}."
