"""Transfer learning; without a [train] section the given weights are scored and used unchanged."""

from __future__ import annotations

import csv
import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgekit import checkpoint_file
from edgekit.config.recipe import Recipe
from edgekit.config.train_section import TrainSection
from edgekit.data import index_file
from edgekit.data.listing import expand
from edgekit.disk.atomic import write_text
from edgekit.errors import Shortfall
from edgekit.pipeline import teaching, warnings
from edgekit.pipeline.provenance import versions
from edgekit.pipeline.state import Run
from edgekit.types import Checkpoint, Epoch

RESUMABLE = True
PAGE, TABLE = "training.html", "training.csv"
"""What it writes while it runs: for a browser, beside the stages, and for programs, in its own folder."""


def section(run: Run) -> TrainSection | None:
    """Always runs; without a section the weights are scored."""
    return run.recipe.train


def inputs(run: Run, section: TrainSection | None) -> dict[str, Any]:
    """The network, its files, the section and the data."""
    recipe = run.recipe
    return {
        "model": recipe.model.model_dump(),
        "files": _model_files(recipe, run.job.base),
        "train": section.model_dump() if section else None,
        "input": [recipe.data.shape, recipe.data.resize, recipe.data.pad],
        "data": run.digest("data"),
        "versions": versions("torch", "torchvision", "timm", "numpy", "pillow"),
        **(teaching.inputs(run) if section else {}),
    }


def build(run: Run, section: TrainSection | None, work: Path) -> None:
    """Write a checkpoint."""
    from edgekit.train import together

    index, root = index_file.load_rooted(run.done["data"].path)

    def watched(epoch: Epoch) -> None:
        _show(run, work, going=section is not None and epoch.epoch < section.epochs)
        if epoch.epoch == 1:
            run.console.say(f"  plots while it runs: {run.job.out / PAGE}")
        if run.job.after_epoch is not None:
            run.job.after_epoch(epoch)

    try:
        together.train(run.recipe, index, root, run.job.base, work, run.console, watched)
    finally:
        if (work / TABLE).is_file():
            _show(run, work, going=False)


def _show(run: Run, work: Path, going: bool) -> None:
    """Write the page on which the training can be watched, beside the stages, where it stays."""
    from edgekit.report import live

    with (work / TABLE).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    epochs = run.recipe.train.epochs if run.recipe.train else 0
    write_text(run.job.out / PAGE, live.render(run.recipe.name, rows, epochs, going, datetime.now(UTC)))


def failed(run: Run, trouble: Shortfall) -> None:
    """Nothing to do."""


def after(run: Run) -> None:
    """Warn now, while stopping still saves time; the run does so again at its end."""
    if not run.done["train"].cached:
        for text in warnings.guessing(run):
            run.console.say(f"  warning: {text}")


def remark(run: Run) -> str:
    """Whose weights they are, where nothing was trained, and what to know about them."""
    unchanged = () if run.recipe.train else ("the recipe has no [train] section: the weights are used unchanged",)
    checkpoint: Checkpoint | None = run.read("train", checkpoint_file.NAME, Checkpoint)
    return "; ".join((*unchanged, *(checkpoint.notes if checkpoint else ())))


def _model_files(recipe: Recipe, base: Path) -> dict[str, str]:
    """SHA-256 of the user's own files behind the model: weights, and the file that builds it."""
    files = []
    if recipe.model.weights not in ("pretrained", "none"):
        files.append(expand(recipe.model.weights, base))
    name, colon, _ = recipe.model.name.rpartition(":")
    if colon:
        files.append(expand(name, base))
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.is_file()}
