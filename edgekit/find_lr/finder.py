"""A learning rate that suits a recipe, from one short training in which the rate rises with every step.

Smith, Cyclical Learning Rates for Training Neural Networks (2017). At first the loss stands still, then it falls, and
at last it explodes. The rate to train with is a tenth of that where the loss is lowest (Howard and Gugger, Deep
Learning for Coders with fastai and PyTorch, 2020, chapter 5).
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from edgekit import models
from edgekit.config.recipe import Recipe
from edgekit.console import Console
from edgekit.data import index_file, port
from edgekit.disk import json_file
from edgekit.disk.atomic import cannot_write, write_text
from edgekit.errors import InputError, Shortfall
from edgekit.find_lr import page
from edgekit.find_lr.records import JSON, PAGE, TABLE, Result, Step
from edgekit.graph import eager
from edgekit.train import loop, memory, optim, teacher
from edgekit.train.crew import Crew
from edgekit.train.epoch import Trainer, loss_of, precision
from edgekit.train.loader import Loader

AROUND = 4
"""Steps on either side that a loss is averaged over."""
LAG, WORSE, FIRST = 0.9, 3.0, 10
"""When to stop: decay of a running mean of the losses, multiple of its lowest value, and the first step to look."""
LESS = 10
"""Share of the rate of the lowest loss that is suggested."""


def run(recipe: Recipe, base: Path, out: Path, console: Console, steps: int, low: float, high: float) -> Result:
    """Train with rising rates and write ``find-lr.json``, ``find-lr.csv`` and ``find-lr.html``. No weights are kept.

    Args:
        recipe: what to train, and how; its rates and its schedule are not used.
        base: folder that its relative paths start from.
        out: folder to write into; made if there is none.
        console: progress.
        steps: how many batches.
        low: the first rate.
        high: the last one.

    Raises:
        InputError: the recipe cannot be trained.
        Shortfall: the loss never falls.
    """
    if recipe.train is None:
        raise InputError("find-lr: the recipe has no [train] section, so that nothing is trained")
    if not low < high:
        raise InputError(f"find-lr: --from {low:g} must be less than --to {high:g}")
    rates = [float(rate) for rate in np.geomspace(low, high, steps)]
    losses = list(_losses(recipe, base, out, console, rates))
    result = judge(recipe.name, recipe.train.optimizer, recipe.train.batch, rates, losses)
    try:
        out.mkdir(parents=True, exist_ok=True)
        json_file.save(out / JSON, result)
        write_text(out / TABLE, _table(result))
        write_text(out / PAGE, page.render(result))
    except OSError as error:
        raise cannot_write(out, error) from error
    return result


def judge(name: str, optimizer: str, batch: int, rates: Sequence[float], losses: Sequence[float]) -> Result:
    """What some losses say.

    Args:
        name: of the recipe.
        optimizer: likewise.
        batch: likewise.
        rates: ascending.
        losses: at the first of these rates.

    Raises:
        Shortfall: the loss never falls.
    """
    kept = [loss for loss in losses if math.isfinite(loss)]
    smooth = [float(np.mean(kept[max(i - AROUND, 0) : i + AROUND + 1])) for i in range(len(kept))]
    lowest = int(np.argmin(smooth)) if smooth else 0
    if not lowest:
        raise Shortfall(
            f"find-lr: the loss does not fall at any rate from {rates[0]:g} on: begin lower (--from), or train a head "
            "first (train.frozen)"
        )
    slopes = np.diff(smooth[: lowest + 1])
    ended = f"all {len(rates)} steps were made"
    if len(losses) < len(rates):
        ended = f"the loss exploded at a rate of {rates[len(losses) - 1]:.2g}"
    return Result(
        name,
        optimizer,
        batch,
        tuple(Step(*each) for each in zip(rates, kept, smooth, strict=False)),
        ended,
        rates[lowest],
        rates[int(np.argmin(slopes))],
        rates[lowest] / LESS,
        1 - smooth[lowest] / smooth[0],
    )


def _losses(recipe: Recipe, base: Path, out: Path, console: Console, rates: Sequence[float]) -> Iterable[float]:
    """The loss of each step, until it explodes."""
    assert recipe.train is not None
    section = recipe.train.model_copy(update={"ema": None, "unfreeze": None})
    port.check(recipe.data)
    index = index_file.build(recipe.data, base, out / "data", console)
    root = index_file.root_of(index, out / "data")
    torch.manual_seed(section.seed)
    module, _, spec = models.create(
        recipe.model,
        len(index.labels),
        recipe.data.shape,
        base,
        True,
        lambda note: console.say(f"  {note}"),
        recipe.data.resize,
        recipe.data.pad,
    )
    if section.init is not None:
        optim.initialise(module.modules(), section.init)
    module = module.to(loop.device())
    module = module.to(memory_format=eager.fastest_format(module, torch.zeros(2, *spec.shape)))
    state, images = loop.start(module, section), loop.Images(index, root, spec, section)
    criterion = loss_of(section, [sample.label for sample in images.train.samples], index.labels)
    criterion = teacher.criterion(recipe, base, spec, index.labels, criterion)
    running, best = 0.0, math.inf
    with memory.kept(), loop.deterministic(), console.bar("learning rates", len(rates)) as advance:
        if section.frozen:
            loop.fit_head(module, images.plain(), section.frozen, section.label_smoothing)
        state.precision = precision(section, module, spec.shape)
        trainer = Trainer(state, section, Loader(images.train, section, Crew()), criterion, Crew(), images.classes)
        for step, loss in enumerate(trainer.at([rate / section.lr for rate in rates]), start=1):
            yield loss
            advance(1, f"rate {rates[step - 1]:.1e}, loss {loss:.3f}")
            running = LAG * running + (1 - LAG) * loss
            now = running / (1 - LAG**step)
            best = min(best, now)
            if not math.isfinite(loss) or (step > FIRST and now > WORSE * best):
                return


def _table(result: Result) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("rate", "loss", "smooth"))
    writer.writerows((step.rate, step.loss, step.smooth) for step in result.steps)
    return text.getvalue()
