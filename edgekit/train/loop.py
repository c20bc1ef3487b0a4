"""Transfer learning: fit the head on frozen features, then train all layers; resumable at every epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from edgekit import ends, models
from edgekit.config.recipe import Recipe, TrainSection
from edgekit.console import Console
from edgekit.data.dataset import ImageSet, batches
from edgekit.errors import InputError, Paused, Shortfall
from edgekit.graph import eager
from edgekit.graph.logits import classes, per_class
from edgekit.train import _head, class_order
from edgekit.train._state import LAST, State, fingerprint
from edgekit.train.metrics import predict, score
from edgekit.train.optim import optimizer, set_rates
from edgekit.train.schedule import factor
from edgekit.types import Checkpoint, Epoch, Index, InputSpec, Metrics, Split


def train(
    recipe: Recipe,
    index: Index,
    root: Path,
    base: Path,
    work: Path,
    console: Console,
    after_epoch: Callable[[Epoch], None] | None = None,
) -> Checkpoint:
    """Train the recipe's network and write the best checkpoint.

    All randomness derives from ``train.seed`` and the epoch, so a killed run resumes from ``last.pt`` in `work`
    and, on the CPU, ends with the same bits as an uninterrupted one. The test split is used once, after the last
    epoch. Without a [train] section the given weights are scored and written unchanged.

    Args:
        recipe: what to train.
        index: the data set.
        root: folder that its paths start from.
        base: folder that the recipe's relative paths start from.
        work: existing folder that gets ``model.safetensors`` and ``checkpoint.json``.
        console: progress.
        after_epoch: called once each epoch is saved; what it raises ends the training, which can be gone on with.

    Raises:
        InputError: the model, its weights or the data cannot be used, or they number the classes differently.
        Shortfall: the loss is not a number; the best epoch so far is in `work`.
        OSError: the disk is full.
    """
    section = recipe.train
    torch.manual_seed(section.seed if section else 0)
    data, notes = recipe.data, list[str]()
    module, model, spec = models.create(
        recipe.model, len(index.labels), data.shape, base, section is not None, notes.append, data.resize, data.pad
    )
    for note in notes:
        console.say(f"  {note}")
    module = module.to(device())
    module = module.to(memory_format=eager.fastest_format(module, torch.zeros(2, *spec.shape)))
    draft = Checkpoint(models.WEIGHTS, model, spec, index.labels, trained=section is not None, notes=tuple(notes))

    def scores(*splits: Split) -> tuple[Metrics, ...]:
        return tuple(score_split(module, index, root, spec, split) for split in splits if index.split(split))

    def write(history: list[Epoch], metrics: tuple[Metrics, ...], doubts: tuple[str, ...] = ()) -> Checkpoint:
        parameters, macs = models.count(module, spec.shape)
        checkpoint = replace(draft, history=tuple(history), metrics=metrics, doubts=doubts)
        checkpoint = replace(checkpoint, parameters=parameters, macs=macs)
        models.save(work, module, checkpoint)
        return checkpoint

    if section is None:
        if recipe.model.weights == "none":
            console.say('  model.weights = "none" and no [train]: the weights are random, so accuracy is meaningless')
            return write([], scores("val", "test"))
        metrics = scores("val", "test")
        doubts = class_order.check(recipe.data, index.labels, metrics, lambda: next(iter(scores("train")), None))
        for doubt in doubts:
            console.say(f"  {doubt}")
        return write([], metrics, doubts)
    state = start(module, section)
    with deterministic():
        mark = fingerprint(recipe, index, module)
        if state.restore(work, mark):
            console.say(f"  resuming after epoch {state.history[-1].epoch}")
        try:
            images = Images(index, root, spec, section)
            fit(state, section, images, lambda: state.save(work, mark), console, after_epoch=after_epoch)
        except NotANumber as trouble:
            kept = "no epoch was finished"
            if state.history:
                module.load_state_dict(state.best)
                write(state.history, scores("val"))
                kept = f"the weights of epoch {state.history[state.best_epoch].epoch} are kept"
            raise Shortfall(f"train: {trouble}; {kept}: lower train.lr = {section.lr:g} or train.head_lr") from None
    module.load_state_dict(state.best)
    checkpoint = write(state.history, scores("val", "test"))
    (work / LAST).unlink(missing_ok=True)
    return checkpoint


Criterion = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From the images, the logits of each class and the labels of a batch to a scalar loss."""


class NotANumber(Exception):
    """The loss or a weight is not a number; the message says where."""


class Images:
    """The training and validation images of a run."""

    def __init__(self, index: Index, root: Path, spec: InputSpec, section: TrainSection) -> None:
        self.train = ImageSet(index, root, "train", spec, section.augment, section.seed)
        self.plain = partial(ImageSet, index, root, "train", spec)  # used once, so not kept in memory
        self.val = ImageSet(index, root, "val", spec) if index.split("val") else None
        if len(self.train) < 2:
            raise InputError(f"train: the training split has {len(self.train)} images; at least 2 are needed")


def start(module: nn.Module, section: TrainSection) -> State:
    """A run before its first epoch."""
    average = None
    if section.ema is not None:
        average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(section.ema), use_buffers=True)  # type: ignore[no-untyped-call]
    return State(module, optimizer(module, section), average)


def fit(
    state: State,
    section: TrainSection,
    images: Images,
    save: Callable[[], None],
    console: Console,
    criterion: Criterion | None = None,
    pause: int | None = None,
    after_epoch: Callable[[Epoch], None] | None = None,
) -> None:
    """Train the remaining epochs, each followed by `save`.

    Args:
        state: the run so far.
        section: how to train.
        images: what to train and validate on.
        save: called after each epoch.
        console: progress.
        criterion: the loss of the epochs over all layers; cross-entropy with the section's smoothing by default.
        pause: stop after this epoch, if more were to come.
        after_epoch: called after each `save`.

    Raises:
        Paused: it did.
        NotANumber: the loss or a weight is not a number.
    """
    if section.frozen and not state.history:
        _fit_head(state, section, images)
        _close_epoch(state, console, section.epochs)
        save()
    done = sum(epoch.phase == "all" for epoch in state.history)
    for epoch in range(done + 1, section.epochs + 1):
        if pause is not None and epoch > pause:
            raise Paused(state.history[state.best_epoch].val_accuracy, epoch - 1, state.history[-1].seconds)
        if _patience_is_over(state.history, section.patience):
            console.say(f"  no better validation loss for {section.patience} epochs: stopping early")
            break
        _train_epoch(state, section, images, epoch, console, criterion or _cross_entropy(section))
        _close_epoch(state, console, section.epochs)
        save()
        if after_epoch is not None:
            after_epoch(state.history[-1])


def _fit_head(state: State, section: TrainSection, images: Images) -> None:
    began = time.perf_counter()
    classifier = models.head(state.module)
    inputs, labels = _head.features(state.module, images.plain())
    _head.fit(classifier, inputs, labels, section.frozen, section.label_smoothing)
    with torch.no_grad():
        logits = per_class(classifier(inputs).flatten(1))
    loss = functional.cross_entropy(logits, labels, label_smoothing=section.label_smoothing).item()
    if not math.isfinite(loss):
        raise NotANumber("the loss of the head is not a number")
    hits = (logits.argmax(1) == labels).float().mean().item()
    if state.average is not None:
        state.average.module.load_state_dict(state.module.state_dict())
    val_loss, val_accuracy = validate(state.scored, images.val)
    seconds = time.perf_counter() - began
    state.history.append(Epoch(0, "head", 0.0, loss, hits, val_loss, val_accuracy, seconds))


def fit_head(module: nn.Module, images: ImageSet, iterations: int, smoothing: float) -> None:
    """Fit the classifier alone, in place, on features of a frozen network.

    Args:
        module: the network.
        images: not augmented.
        iterations: of L-BFGS.
        smoothing: of the labels.
    """
    inputs, labels = _head.features(module, images)
    _head.fit(models.head(module), inputs, labels, iterations, smoothing)


def _cross_entropy(section: TrainSection) -> Criterion:
    return lambda _, logits, labels: functional.cross_entropy(logits, labels, label_smoothing=section.label_smoothing)


def _train_epoch(
    state: State, section: TrainSection, images: Images, epoch: int, console: Console, criterion: Criterion
) -> None:
    began = time.perf_counter()
    module, device = state.module, next(state.module.parameters()).device
    form = eager.format_of(module)
    torch.manual_seed(_mix(section.seed, epoch))  # dropout and stochastic depth
    module.train()
    if section.batch_norm == "frozen":
        for child in module.modules():
            if isinstance(child, _BatchNorm):
                child.eval()
    steps = math.ceil(len(images.train) / section.batch)
    loss_sum, hits, seen = 0.0, 0, 0
    with console.bar(f"epoch {epoch}/{section.epochs}", steps) as advance:
        for step, (values, labels) in enumerate(batches(images.train, section.batch, epoch - 1)):
            set_rates(state.optimizer, factor((epoch - 1) * steps + step, section.epochs * steps, section.warmup))
            labels = labels.to(device)
            values = values.to(device, memory_format=form)
            output = module(values)
            if not isinstance(output, Tensor):
                said = ends.described(output)
                raise InputError(
                    f"model: in training the network returns {said}, or turn the others off in model.options"
                )
            logits = per_class(output)
            loss = criterion(values, logits, labels)
            if not loss.isfinite():
                raise NotANumber(f"the loss is {loss.item()} at epoch {epoch}, step {step + 1} of {steps}")
            state.optimizer.zero_grad()
            torch.autograd.backward(loss)
            state.optimizer.step()
            if state.average is not None:
                state.average.update_parameters(module)
            loss_sum += loss.item() * len(labels)
            hits += int((logits.argmax(1) == labels).sum())
            seen += len(labels)
            advance(1, f"loss {loss_sum / seen:.3f}")
    val_loss, val_accuracy = validate(state.scored, images.val)
    if val_loss is not None and not math.isfinite(val_loss):
        raise NotANumber(f"the validation loss is {val_loss} after epoch {epoch}")
    if not all(weight.isfinite().all() for weight in state.scored.parameters()):
        raise NotANumber(f"some weights are not numbers after epoch {epoch}")
    rate = section.lr * factor(epoch * steps - 1, section.epochs * steps, section.warmup)
    seconds = time.perf_counter() - began
    state.history.append(Epoch(epoch, "all", rate, loss_sum / seen, hits / seen, val_loss, val_accuracy, seconds))


def validate(module: nn.Module, images: ImageSet | None) -> tuple[float | None, float | None]:
    """Mean loss and accuracy on the validation split, if there is one."""
    if images is None:
        return None, None
    logits, labels = predict(module, images)
    logits = per_class(logits)
    loss = functional.cross_entropy(logits, labels).item()
    return loss, (logits.argmax(1) == labels).float().mean().item()


def _close_epoch(state: State, console: Console, epochs: int) -> None:
    state.keep_best()
    new = state.history[-1]
    line = "head       " if new.phase == "head" else f"epoch {new.epoch:2}/{epochs:<2}"
    line += f"  train loss {new.train_loss:.3f} accuracy {new.train_accuracy:.1%}"
    if new.val_accuracy is not None:
        line += f"  val loss {new.val_loss:.3f} accuracy {new.val_accuracy:.1%}"
    console.say(f"  {line}  {new.seconds:.0f} s")


def _patience_is_over(history: list[Epoch], patience: int | None) -> bool:
    losses = [epoch.val_loss for epoch in history if epoch.phase == "all" and epoch.val_loss is not None]
    return patience is not None and len(losses) > patience and min(losses[-patience:]) >= min(losses[:-patience])


def score_split(module: nn.Module, index: Index, root: Path, spec: InputSpec, split: Split) -> Metrics:
    """Run the network over a split and score it."""
    logits, labels = predict(module, ImageSet(index, root, split, spec))
    return score(classes(logits).numpy(), labels.numpy(), index.labels, split)


def device() -> torch.device:
    """Where to train: the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _mix(seed: int, epoch: int) -> int:
    """Mix two numbers into one seed; seeds of neighbouring epochs are unrelated."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])


@contextmanager
def deterministic() -> Iterator[None]:
    """Use only algorithms that give the same bits each time; on the CPU alone, where this costs nothing."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(not torch.cuda.is_available())
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
