"""Label a folder of images with a trained network: a table for ``data.extra``.

Source: Lee, "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep Neural Networks", ICML
workshop on challenges in representation learning, 2013.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgekit import checkpoint_file
from edgekit.config import recipe_file
from edgekit.console import Console
from edgekit.data import index_file
from edgekit.data.listing import image_files
from edgekit.datacheck import table
from edgekit.datacheck.survey import Network, batched
from edgekit.disk.atomic import cannot_write, write_text
from edgekit.disk.run_directory import RunDirectory
from edgekit.errors import InputError

_BATCH = 32


@dataclass(frozen=True)
class Labelled:
    """What labelling a folder gave."""

    images: int
    """How many could be read."""
    counts: dict[str, int]
    """Images that are sure enough, by class."""
    unreadable: tuple[str, ...]
    """Files that are no images, relative to the folder."""
    sure: float | None
    """Share of the validation images of the run that are as sure, 0..1; None without a validation split."""
    right: float | None
    """Share of those that are right; None if there are none."""


def label(run: Path, folder: Path, least: float, out: Path, console: Console) -> Labelled:
    """Write a table with the columns path (relative to the table), label and confidence.

    Args:
        run: run directory with a trained network.
        folder: images, also in folders below it.
        least: softmax probability from which on an image gets its likeliest class.
        out: the table.
        console: progress.

    Raises:
        InputError: no such folder, no images in it, no trained network, or a table that cannot be written.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give one that holds images")
    files, problems = image_files(folder)
    if not files:
        raise InputError(f"{folder}: there are no images in it")
    net, names = _network(run)
    probabilities, broken = _predict(net, folder, files, "labelling", console)
    best, sureness = probabilities.argmax(1), probabilities.max(1)
    start, root = out.resolve().parent, folder.resolve()
    paths = [Path(os.path.relpath(root / file, start)).as_posix() for file in files if file not in broken]
    rows = [(paths[row], names[best[row]], f"{sureness[row]:.4f}") for row in np.flatnonzero(sureness >= least)]
    sure, right = _on_validation(run, net, least, console)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, table.text(("path", "label", "confidence"), rows))
    except OSError as error:
        raise cannot_write(out, error) from error
    counts = Counter(name for _, name, _ in rows)
    unreadable = (*(path for path, _ in problems), *broken)
    return Labelled(len(paths), {name: counts[name] for name in names}, unreadable, sure, right)


def _network(run: Path) -> tuple[Network, tuple[str, ...]]:
    """The float network that a run ended with, and its classes."""
    record = run / "recipe.json"
    if not record.is_file():
        raise InputError(f"{run}: is not a run directory (it has no recipe.json); edgekit train makes one")
    recipe, _ = recipe_file.resume(record)
    stage = "prune" if recipe.prune else "train"
    place = RunDirectory(run).folder(stage)
    if not (place / checkpoint_file.NAME).is_file():
        raise InputError(f"{run}: there is no trained network in it; run edgekit {stage} {run}")
    from edgekit import models

    module, checkpoint = models.load(place)
    return Network(module, checkpoint.input), checkpoint.labels


def _predict(
    net: Network, root: Path, files: Sequence[str], title: str, console: Console
) -> tuple[npt.NDArray[np.float32], list[str]]:
    """Class probabilities of the files that can be read, (images, classes), and the other files."""
    import torch

    from edgekit.data.transforms import evaluate, open_image
    from edgekit.graph.logits import per_class

    broken: list[str] = []

    def images() -> Iterator[npt.NDArray[np.float32]]:
        with console.bar(title, len(files)) as advance:
            for file in files:
                try:
                    yield evaluate(open_image(root / file, net.spec), net.spec)
                except Exception:  # Pillow's decoders raise errors of any type
                    broken.append(file)
                advance()

    found = []
    with torch.no_grad():
        for batch in batched(images(), _BATCH):
            found.append(per_class(net.module(torch.from_numpy(np.stack(batch)))).softmax(1).numpy())
    if not found:
        raise InputError(f"{root}: no file in it is an image that can be read")
    return np.concatenate(found), broken


def _on_validation(run: Path, net: Network, least: float, console: Console) -> tuple[float | None, float | None]:
    """How many validation images are as sure, and how many of those are right."""
    index, root = index_file.load_rooted(RunDirectory(run).folder("data"))
    samples = index.split("val")
    if not samples:
        return None, None
    probabilities, _ = _predict(net, root, [sample.path for sample in samples], "validation images", console)
    sure = probabilities.max(1) >= least
    hits = probabilities.argmax(1) == np.array([sample.label for sample in samples])
    return float(sure.mean()), float(hits[sure].mean()) if sure.any() else None
