"""``training.html``: a training while it runs. A browser loads it again by itself, until the training is over."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime

from edgekit import __version__
from edgekit.report.charts import curves, over_epochs
from edgekit.report.markup import Markup, breakable, figure, tag, tiles
from edgekit.report.page import page
from edgekit.report.svg import number, percent
from edgekit.types import Epoch

REFRESH = 5
"""Seconds."""
OVERDUE, LEAST = 3, 60
"""An epoch that takes so many times as long as the last one, and so many seconds, will hardly end: a process that was
killed cannot write that it has stopped, so the page itself says that there is no news."""
TRENDS = (
    ("lr", "Learning rate", 1.0),
    ("gradient_norm", "Norm of the gradients", 1.0),
    ("images_per_second", "Images per second", 1.0),
    ("image_wait", "Waiting for images, % of the time", 100.0),
    ("cores_busy", "Busy cores", 1.0),
    ("rss_mb", "Peak memory so far, MB", 1.0),
    ("gpu_mb", "Peak GPU memory so far, MB", 1.0),
)
"""Columns of ``training.csv``, what they are, and what they are multiplied by."""


def render(name: str, rows: Sequence[Mapping[str, str]], epochs: int, going: bool, now: datetime) -> str:
    """The page as HTML.

    Args:
        name: of the run.
        rows: of ``training.csv``, at least one.
        epochs: over all layers that the recipe asks for.
        going: whether there are more to come.
        now: in UTC.
    """
    history = [_epoch(row) for row in rows]
    figures = []
    for quantity, title in (("loss", "Loss"), ("accuracy", "Accuracy, %")):
        figures.append(figure(title, curves(history, quantity, f"{quantity} over {len(history)} epochs")))
    for column, title, factor in TRENDS:
        seen = [
            (epoch, factor * value)
            for epoch, row in zip(history, rows, strict=True)
            if (value := _value(row, column)) is not None
        ]
        if seen:
            those, values = zip(*seen, strict=True)
            summary = f"{title} over {len(those)} epochs, last: {number(values[-1], 3)}"
            figures.append(figure(title, over_epochs(those, {"": values}, title.lower(), summary)))
    done = history[-1].epoch
    state = "training" if going else "finished" if done >= epochs else "stopped"
    heading = tag("h2", "Epochs", id="epochs-h", class_="unseen")
    section = tag(
        "section",
        heading,
        _numbers(history, epochs, going),
        tag("div", *figures, class_="figures"),
        aria_labelledby="epochs-h",
    )
    created = now.strftime("%Y-%m-%d %H:%M UTC")
    eyebrow = tag("p", f"edgekit train, {created}", class_="eyebrow")
    late: dict[str, str] = {}
    if going:
        late["data_due"] = f"{now.timestamp() + max(OVERDUE * history[-1].seconds, LEAST):.0f}"
        late["data_late"] = f"no news since {created}, after epoch {done} of {epochs}: it hangs, or was stopped"
    where = tag("p", f"{state}: epoch {done} of {epochs}", **late)
    header = tag("header", tag("div", eyebrow, tag("h1", breakable(name)), where))
    footer = f"edgekit {__version__}. The numbers are in training.csv."
    title = f"{done}/{epochs} {name}: edgekit train"
    return page(title, __version__, header, [("epochs", "Epochs", section)], footer, REFRESH if going else None)


def _numbers(history: Sequence[Epoch], epochs: int, going: bool) -> Markup:
    last = history[-1]
    pairs = []
    scored = [(epoch.val_accuracy, -epoch.epoch) for epoch in history if epoch.val_accuracy is not None]
    if scored:
        best, place = max(scored)
        pairs.append((percent(best), "best validation accuracy", f"epoch {-place}"))
    pairs.append((f"{last.seconds:.0f} s", "last epoch", ""))
    if going:
        left = (epochs - last.epoch) * last.seconds
        pairs.append((_minutes(left), "to go", "if all epochs are needed and none is slower than the last"))
    return tiles(pairs)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _epoch(row: Mapping[str, str]) -> Epoch:
    def known(name: str) -> float:
        value = _value(row, name)
        return math.nan if value is None else value

    return Epoch(
        epoch=int(row["epoch"]),
        phase="head" if row["phase"] == "head" else "all",
        lr=known("lr"),
        train_loss=known("train_loss"),
        train_accuracy=known("train_accuracy"),
        val_loss=_value(row, "val_loss"),
        val_accuracy=_value(row, "val_accuracy"),
        seconds=known("seconds"),
    )


def _value(row: Mapping[str, str], name: str) -> float | None:
    """A finite number of a row; None if it has none."""
    text = row.get(name) or ""
    value = float(text) if text else math.nan
    return value if math.isfinite(value) else None
