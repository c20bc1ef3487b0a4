"""Training a compressed network against the float network it came from.

Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network (2015).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from edgekit.config.recipe import PruneSection, Recipe
from edgekit.config.train_section import TrainSection
from edgekit.console import Console
from edgekit.data.dataset import ImageSet, batches
from edgekit.errors import Shortfall
from edgekit.graph import eager
from edgekit.graph.logits import per_class
from edgekit.train import loop, memory
from edgekit.train._state import LAST, fingerprint, read
from edgekit.train.epoch import NotANumber, precision
from edgekit.train.teacher import soft_loss
from edgekit.types import Epoch, Index, InputSpec

BATCH = 64
"""Batch size of the pass that measures batch-norm statistics."""
IMAGES = 1024
"""Most training images that this pass uses."""


def loss(student: Tensor, teacher: Tensor, labels: Tensor, weight: float, temperature: float) -> Tensor:
    """``(1 - weight) * CE + weight * T^2 * KL(teacher || student)``; see `edgekit.train.teacher.soft_loss`.

    Args:
        student: logits, ``N x classes``, with gradient.
        teacher: logits, ``N x classes``; no gradient flows into them.
        labels: class indices, ``N``.
        weight: the teacher's share of the loss, 0..1.
        temperature: above 0.

    Returns:
        A scalar.
    """
    hard = functional.cross_entropy(student, labels)
    return (1 - weight) * hard + weight * soft_loss(student, teacher, temperature)


def criterion(teacher: nn.Module, weight: float, temperature: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """`loss` against a network that sees the same augmented images; see `edgekit.train.loop.Criterion`."""
    teacher = teacher.eval()

    def of(values: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = per_class(teacher(values))
        return loss(logits, wanted, labels, weight, temperature)

    return of


def recover(
    student: nn.Module,
    teacher: nn.Module,
    recipe: Recipe,
    index: Index,
    root: Path,
    spec: InputSpec,
    work: Path,
    console: Console,
    pause: int | None = None,
) -> tuple[Epoch, ...]:
    """Train a pruned network in place to recover the accuracy of the unpruned one; keeps the best epoch's weights.

    Optimizer, schedule, augmentation, batch size and moving average come from the recipe's [train], the rest from
    [prune]. Batch-norm statistics are measured again first. As in `loop.train`, a killed run resumes from
    ``last.pt`` in `work` and ends with the same bits.

    Args:
        student: the pruned network.
        teacher: the unpruned network.
        recipe: how to train; it must have a [prune] section.
        index: the data set, with a training split.
        root: folder that its paths start from.
        spec: how images become tensors.
        work: existing folder.
        console: progress.
        pause: stop after this epoch, if more were to come.

    Returns:
        What happened in each epoch.

    Raises:
        Paused: it stopped there; called again, it goes on.
        Shortfall: the loss is not a number.
    """
    prune = recipe.prune
    assert prune is not None
    section = schedule(recipe.train or TrainSection(), prune)
    torch.manual_seed(section.seed)
    device = loop.device()
    form = eager.fastest_format(student.to(device), torch.zeros(2, *spec.shape))
    student.to(memory_format=form)
    teacher = teacher.to(device, memory_format=form)  # type: ignore[call-overload]
    images = loop.Images(index, root, spec, section)
    with memory.kept(), loop.deterministic():
        mark = f"{fingerprint(recipe, index, student)} {prune.model_dump_json()}"
        measure_statistics(student, images.plain())
        state = loop.start(student, section)
        if (found := read(work, mark)) is not None:
            state.restore(found)
            console.say(f"  resuming after epoch {state.history[-1].epoch}")
        else:
            state.precision = precision(section, student, spec.shape)
        against = criterion(teacher, prune.distill, prune.temperature)
        try:
            loop.fit(state, section, images, lambda *_: state.save(work, mark), console, against, pause)
        except NotANumber as trouble:
            raise Shortfall(f"prune: {trouble}: lower prune.lr = {prune.lr:g}") from None
    student.load_state_dict(state.best)
    student.cpu().to(memory_format=torch.contiguous_format).eval()
    (work / LAST).unlink(missing_ok=True)
    return tuple(state.history)


def schedule(train: TrainSection, prune: PruneSection) -> TrainSection:
    """How a recipe's [train] recovers a pruned network.

    One rate for all layers, no separate head phase, and batch norms that keep training: freezing them preserves the
    pretrained statistics, which no longer fit the pruned network.
    """
    return train.model_copy(
        update={
            "epochs": prune.recover,
            "frozen": 0,
            "batch_norm": "train",
            "lr": prune.lr,
            "head_lr": None,
            "patience": None,
            "unfreeze": None,
            "layer_decay": None,
            "seed": prune.seed,
        }
    )


def measure_statistics(module: nn.Module, images: ImageSet) -> None:
    """Measure batch-norm means and variances again over training images, as pruning has changed their inputs.

    Args:
        module: the network; its mode is restored.
        images: not augmented; only the first `IMAGES` of a fixed shuffle are used.
    """
    training = module.training
    norms: list[Any] = [child for child in module.eval().modules() if isinstance(child, _BatchNorm)]
    norms = [norm for norm in norms if norm.track_running_stats]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over all batches
        norm.train()
    device, form = next(module.parameters()).device, eager.format_of(module)
    seen = 0
    with torch.no_grad():
        for values, _ in batches(images, BATCH, epoch=0):
            if norms:
                module(values.to(device, memory_format=form))
            seen += len(values)
            if seen >= IMAGES:
                break
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    module.train(training)
