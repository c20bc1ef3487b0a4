"""How good is each file, as far as the test images can tell? In words, as a table, and how far to believe its odds."""

from __future__ import annotations

from edgekit.report.charts import WIDTH, axes
from edgekit.report.contents import Report
from edgekit.report.markup import Markup, badge, figure, fold, join, table, tag
from edgekit.report.svg import chart, dot, linear, path, percent, signed, text
from edgekit.scores import Accuracy, Difference
from edgekit.types import TORCH_FP32, Calibration

LEAD = (
    "Other images would have given other scores: the intervals say how different. Those of the change compare each "
    "file with the float network image by image, which tells more than two scores do; “worse” and “better” are said "
    "only where they exclude zero. With one class per image, the micro averages of precision, recall and F1 are top-1."
)
ODDS = (
    "Of the images that the network is 80 % sure of, 80 % should be right: dots below the line are overconfident. "
    "The expected calibration error is the mean distance from the line. It needs some hundred images."
)


def change(lost: Difference) -> str:
    """``-0.25 (-1.1 to 0.6)``: points of top-1 against float, with the interval."""
    return f"{signed(-lost.points)} ({signed(-lost.high)} to {signed(-lost.low)})"


def section(report: Report) -> Markup:
    """The fold of the HTML report; empty if nothing was compared on the host."""
    rows = [row for row in report.accuracy if row.split == "test" and row.metrics is not None]
    files = [row for row in rows if row.lost is not None]
    if not files:
        return Markup("")
    worse = [f"{row.artifact} in {row.engine}" for row in files if row.lost and row.lost.side == "more"]
    heads = ["artifact", "engine", "top-1", "against float, points", *_near(rows), "F1", "calibration error"]
    listed = table(heads, [_cells(row) for row in rows], f"Scores on {rows[0].images:,} test images", words=2)
    pictures = [
        figure(f"How far to believe {row.artifact}", reliability(row.artifact, row.metrics.calibration))
        for row in _drawn(report, rows)
        if row.metrics and row.metrics.calibration
    ]
    below = [tag("p", ODDS, class_="lead"), tag("div", *pictures, class_="figures")] if pictures else []
    digest = "no file is shown to be worse than float"
    if worse:
        digest = f"{' and '.join(worse)} {'are' if len(worse) > 1 else 'is'} worse than float"
    return fold("scores", "Scores", digest, tag("p", LEAD, class_="lead"), listed, *below)


def reliability(name: str, found: Calibration) -> Markup:
    """Accuracy over confidence, in bins, against the diagonal; larger dots are more images."""
    left, right, top, bottom = 50, WIDTH - 14, 12, 212
    x, y = linear((0, 100), (left, right)), linear((0, 100), (bottom, top))
    marks = [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]
    parts = [*axes(x, y, marks, marks, left, right, bottom), path([(x(0), y(0)), (x(100), y(100))], "guide")]
    most = max(each.images for each in found.bins)
    for each in found.bins:
        shown = f"{each.images} images: {percent(each.confidence, 0)} sure, {percent(each.accuracy, 0)} right"
        radius = 2.5 + 6 * (each.images / most) ** 0.5
        parts.append(dot(x(100 * each.confidence), y(100 * each.accuracy), radius, "dot tone-int8", shown))
    parts.append(text(right, bottom + 36, "probability of the predicted class, %", class_="axis", text_anchor="end"))
    parts.append(text(left + 6, top + 6, "images that are right, %", class_="axis"))
    summary = f"Accuracy over confidence of {name}; the expected calibration error is {percent(found.error, 1)}"
    return chart(WIDTH, bottom + 42, summary, *parts)


def _cells(row: Accuracy) -> list[Markup | str]:
    scores = row.metrics
    assert scores is not None
    against: Markup | str = "—"
    if row.lost is not None:
        said = {"more": badge("worse", "failed"), "less": badge("better", "passed"), "": ""}[row.lost.side]
        against = join((change(row.lost), " ", said))
    near = [percent(scores.near[1], 1)] if scores.near else []
    odds = scores.calibration
    where = row.engine if row.device == "host" else f"{row.engine} on {row.device}"
    return [
        row.artifact,
        where,
        _top1(row),
        against,
        *near,
        f"{scores.f1:.3f}",
        percent(odds.error, 1) if odds else "—",
    ]


def _top1(row: Accuracy) -> str:
    ends = row.metrics.intervals.get("accuracy") if row.metrics else None
    return percent(row.top1, 1) + (f" ({100 * ends[0]:.1f} to {100 * ends[1]:.1f})" if ends else "")


def _near(rows: list[Accuracy]) -> list[str]:
    near = rows[0].metrics.near if rows[0].metrics else None
    return [f"top-{near[0]}"] if near else []


def _drawn(report: Report, rows: list[Accuracy]) -> list[Accuracy]:
    """The float network, and the files that ship."""
    ships = {(verdict.artifact, verdict.engine) for verdict in report.verdict}
    return [row for row in rows if row.artifact == TORCH_FP32 or (row.artifact, row.engine) in ships][:3]
