"""Sections of the HTML report on how the network was made: classes, training, data, stages, provenance."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from statistics import median
from typing import Any

from edgekit.report import charts
from edgekit.report.contents import SPLITS, Data, Report, StageRow
from edgekit.report.markup import Markup, badge, details, figure, fold, join, scroll, table, tag, tiles
from edgekit.report.svg import number, percent
from edgekit.types import Metrics

MATRIX_LIMIT = 40
"""With more classes than this the matrix is unreadable, and the most confused pairs are listed instead."""
SIDE_BY_SIDE = 12
"""Up to this many classes, the matrix and the table of scores are shown side by side."""
PAIRS = 20
FINDINGS = 50


def classes(report: Report) -> Markup:
    """Confusion matrix (or the most confused pairs) and the scores of each class."""
    shown = report.shown_metrics()
    if shown is None:
        return Markup("")
    whose, scores = shown
    if not scores.per_class:  # too many classes
        return Markup("")
    labels, images = [score.label for score in scores.per_class], f"{scores.images:,} {scores.split} images"
    parts = [
        tiles(
            [
                (percent(scores.accuracy), "accuracy", images + _ends(scores, "accuracy")),
                *(
                    (percent(getattr(scores, key)), name, f"mean over classes{_ends(scores, key)}")
                    for key, name in (("precision", "precision"), ("recall", "recall"), ("f1", "F1"))
                ),
            ]
        )
    ]
    pairs = confused(scores)
    rows = [(labels[i], labels[j], str(count), percent(count / sum(scores.confusion[i]), 1)) for count, i, j in pairs]
    heads = ("true", "predicted", "images", "share of the class")
    listed = table(heads, rows[:PAIRS], f"Most confused pairs of {len(pairs)}", words=2)
    each = [
        (s.label, percent(s.precision), percent(s.recall), percent(s.f1), f"{s.images:,}") for s in scores.per_class
    ]
    scored = table(("class", "precision", "recall", "F1", "images"), each, "Scores of each class")
    if len(labels) > MATRIX_LIMIT:
        parts += [listed, details("Scores of each class", scored)]
    else:
        worst = f"; most often {rows[0][0]} is taken for {rows[0][1]} ({rows[0][2]} times)" if rows else ""
        summary = f"Confusion matrix of {whose}: {percent(scores.accuracy)} of {scores.images} images right{worst}"
        picture = charts.heatmap(scores.confusion, labels, summary)
        below = details("Most confused pairs", listed) if rows else ""
        matrix = figure("Confusion matrix", scroll("Confusion matrix", picture), below)
        if len(labels) <= SIDE_BY_SIDE:
            parts.append(tag("div", matrix, figure("Each class", scored), class_="figures"))
        else:
            parts += [matrix, details("Scores of each class", scored)]
    digest = f"{percent(scores.accuracy)} right, mean F1 {percent(scores.f1)}"
    digest += f"; most often {rows[0][0]} is taken for {rows[0][1]}" if rows else ""
    lead = tag("p", f"Scores of {whose} on the {scores.split} split.", class_="lead")
    return fold("classes", "Classes", digest, lead, *parts)


def _ends(scores: Metrics, name: str) -> str:
    ends = scores.intervals.get(name)
    return f", 95 % interval {100 * ends[0]:.1f} to {100 * ends[1]:.1f} %" if ends else ""


def confused(scores: Metrics) -> list[tuple[int, int, int]]:
    """Non-empty off-diagonal cells, most frequent first: (images, true class, predicted class)."""
    cells = ((n, i, j) for i, row in enumerate(scores.confusion) for j, n in enumerate(row) if i != j and n)
    return sorted(cells, key=lambda cell: (-cell[0], cell[1], cell[2]))


def training(report: Report) -> Markup:
    """Loss and accuracy over the epochs."""
    checkpoint = report.checkpoint
    if checkpoint is None:
        return Markup("")
    if not checkpoint.history:
        why = (
            "no epochs were recorded"
            if checkpoint.trained
            else "not in the recipe; the given weights are used as they are"
        )
        return fold("training", "Training", why, tag("p", f"train: {why}."))
    history = checkpoint.history
    lead = f"{len(history)} epochs in {_duration(sum(epoch.seconds for epoch in history))}"
    scored = [(epoch.val_accuracy, -epoch.epoch) for epoch in history if epoch.val_accuracy is not None]
    if scored:
        best, epoch_number = max(scored)
        lead += f"; best validation accuracy {percent(best)} after epoch {-epoch_number}"
    figures = []
    for quantity, title in (("loss", "Loss"), ("accuracy", "Accuracy, %")):
        last = getattr(history[-1], f"val_{quantity}")
        summary = f"{quantity} over {len(history)} epochs, last on validation: {number(last, 4)}"
        figures.append(figure(title, charts.curves(history, quantity, summary)))
    rows = [
        (
            str(e.epoch),
            {"head": "head only", "all": "all layers"}[e.phase],
            f"{e.lr:.2g}",
            number(e.train_loss, 4),
            number(e.val_loss, 4),
            percent(e.train_accuracy),
            percent(e.val_accuracy),
            f"{e.seconds:.1f}",
        )
        for e in history
    ]
    heads = ("epoch", "phase", "rate", "train loss", "val loss", "train acc.", "val acc.", "seconds")
    numbers = details("Numbers of these charts", table(heads, rows, "Training history", words=2))
    return fold("training", "Training", lead, tag("div", *figures, class_="figures"), numbers)


def data(report: Report) -> Markup:
    """How many images, in which classes and splits, and what cleaning found."""
    if report.data is None:
        return Markup("")
    dataset = report.data
    totals = {split: sum(dataset.counts.get(split, ())) for split in SPLITS}
    sizes = [sum(counts) for counts in zip(*dataset.counts.values(), strict=True)]
    pairs = [(f"{totals[split]:,}", f"{split} images", "") for split in SPLITS]
    if sizes:
        spread = f"smallest {min(sizes):,}, largest {max(sizes):,}"
        pairs.append((f"{median(sizes):,.0f}", "images in the median class", spread))
    rows = [
        (label, *(f"{dataset.counts.get(split, (0,) * len(sizes))[i]:,}" for split in SPLITS), f"{sizes[i]:,}")
        for i, label in enumerate(dataset.labels)
    ]
    counts = details("Images of each class", table(("class", *SPLITS, "all"), rows, "Images of each class and split"))
    digest = f"{sum(totals.values()):,} images of {len(dataset.labels)} classes; cleaning found {_found(dataset)}"
    return fold("data", "Data", digest, tiles(pairs), counts, *_findings(dataset))


def _found(dataset: Data) -> str:
    count = len(dataset.findings)
    return "nothing to report" if not count else f"{count:,} thing{'' if count == 1 else 's'} to report"


def _findings(dataset: Data) -> list[Markup]:
    if not dataset.findings:
        return [tag("p", "Cleaning found nothing to report.")]
    kinds: Counter[tuple[str, str]] = Counter()
    for finding in dataset.findings:
        kinds[finding.kind, finding.action] += finding.count
    done = {"drop": "dropped", "keep": "kept"}
    words = ", ".join(f"{count:,} {kind} ({done[action]})" for (kind, action), count in kinds.most_common())
    rows = [(f.path, f.kind, done[f.action], f.detail) for f in dataset.findings[:FINDINGS]]
    caption = (
        f"{len(dataset.findings):,} findings"
        if len(rows) == len(dataset.findings)
        else f"The first {FINDINGS} findings"
    )
    listed = table(("file", "kind", "what was done", "detail"), rows, caption, words=4)
    return [tag("p", f"Cleaning found: {words}."), details("Files that cleaning found", listed)]


def stages(report: Report) -> Markup:
    """Which stages ran, which were cached, and which were skipped."""
    rows = []
    for stage in report.stages:
        state = "skipped" if stage.skipped else "cached" if stage.cached else "ran"
        rows.append((stage.name, badge(state), stage.reason, "—" if stage.skipped else _duration(stage.seconds)))
    skipped = [tag("li", skipped_words(stage)) for stage in report.stages if stage.skipped]
    listed = join((tag("p", "Skipped:"), tag("ul", *skipped))) if skipped else Markup("")
    spent = _duration(sum(stage.seconds for stage in report.stages if not stage.skipped))
    ran = len(report.stages) - len(skipped)
    digest = f"{f'{ran} took {spent}' if ran else 'none ran'}, {len(skipped)} skipped"
    every = table(("stage", "", "", "time"), rows, "Stages in order", words=3)
    return fold("stages", "Stages", digest, listed, every)


def skipped_words(stage: StageRow) -> str:
    """``quantize: not in the recipe``."""
    return f"{stage.name}: {stage.reason or 'skipped'}"


def provenance(report: Report) -> Markup:
    """Everything needed to reproduce the files, apart from the machine."""
    p = report.provenance
    unknown = "not in a git repository" if p.source is None else "not in the bundle"
    facts = [("edgekit", report.edgekit_version), ("git commit", p.git_commit or unknown)]
    if p.source is not None:
        facts += [("bundle", f"{p.source.file}, packed by edgekit {p.source.edgekit or '(unknown version)'}")]
        facts += [("SHA-256 of its manifest", p.source.digest)]
        facts += [("signed with", p.source.signed_by or "not signed"), *(("note", each) for each in p.source.notes)]
    facts += [("seeds", ", ".join(f"{use} {seed}" for use, seed in p.seeds.items()) or "none")]
    listed = tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in facts), class_="facts")
    hashes = [(f"{name}", tag("code", value)) for name, value in p.hashes.items()]
    hashes += [(artifact.path, tag("code", artifact.sha256)) for artifact in report.artifacts]
    packages = table(("package", "version"), p.packages.items(), "Package versions", words=2)
    return fold(
        "provenance",
        "Provenance",
        f"edgekit {report.edgekit_version}, {', '.join(f'{k} {v}' for k, v in [*p.packages.items()][:3])}",
        listed,
        details("Packages", packages),
        details("Hashes (SHA-256)", table(("of", "hash"), hashes, "SHA-256", words=2)) if hashes else "",
        details("Recipe as it ran", tag("pre", tag("code", toml(report.recipe)))),
    )


def toml(table: Mapping[str, Any], prefix: str = "") -> str:
    """A recipe as TOML: plain values first, then one section per table; keys without a value (None) are left out."""
    plain = {k: v for k, v in table.items() if v is not None and not isinstance(v, Mapping)}
    lines = [f"{_key(key)} = {_value(value)}" for key, value in plain.items()]
    for key, value in table.items():
        if isinstance(value, Mapping):
            name = f"{prefix}{_key(key)}"
            lines += ["", f"[{name}]", toml(value, f"{name}.")] if value else ["", f"[{name}]"]
    return "\n".join(line for i, line in enumerate(lines) if i or line)


def _key(key: str) -> str:
    bare = key.isascii() and key.replace("-", "").replace("_", "").isalnum()
    return key if bare else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value if item is not None) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"
