"""Do compressed networks look at what float looks at? In short, with the way to the pictures."""

from __future__ import annotations

from edgekit.report.contents import Report
from edgekit.report.markup import Markup, fold, join, table, tag
from edgekit.report.svg import percent
from edgekit.scores import Evidence

PAGE = "../explain/explain.html"
"""From the report's folder."""
LEAD = (
    "Patches of test images were hidden, one after the other, and each network was asked what that takes from float's "
    "class. A network is right for another reason where it has that class, but its evidence is less like float's than "
    "float's is like itself."
)
HEADS = ("network", "engine", "correlation with float's evidence", "right for another reason")


def rows(report: Report) -> list[tuple[str, ...]]:
    """Cells of the table as text, by `HEADS`."""
    return [(row.network, row.engine, _correlation(row), _moved(row)) for row in report.evidence]


def section(report: Report) -> Markup:
    """The fold of the HTML report; empty if ``edgekit explain`` was not run."""
    if not report.evidence:
        return Markup("")
    moved = sum(row.moved for row in report.evidence)
    digest = "right for another reason on some images" if moved else "no evidence is shown to have moved"
    pictures = tag("p", tag("a", "Pictures", href=PAGE), " of the images that changed most, and that are most wrong.")
    return fold(
        "evidence", "Evidence", digest, tag("p", LEAD, class_="lead"), pictures,
        table(HEADS, [tuple(join((cell,)) for cell in row) for row in rows(report)], "Evidence", words=2),
    )  # fmt: skip


def _correlation(row: Evidence) -> str:
    return "—" if row.correlation is None else f"{row.correlation:.2f}"


def _moved(row: Evidence) -> str:
    if row.share is None:
        return "no image could be judged"
    low, high = (percent(end, 1) for end in row.share[1:])
    return f"{row.moved} of {row.judged} ({low} to {high})"
