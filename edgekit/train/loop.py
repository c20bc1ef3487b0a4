"""Transfer learning: fit the head on frozen features, then train all layers; resumable at every epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from edgekit import models
from edgekit.config.recipe import Recipe
from edgekit.config.train_section import TrainSection
from edgekit.console import Console
from edgekit.data.dataset import ImageSet
from edgekit.errors import InputError, Paused, Shortfall
from edgekit.graph import eager
from edgekit.graph.logits import per_class
from edgekit.train import _head, class_order, memory, optim, teacher
from edgekit.train._state import LAST, State, fingerprint, read
from edgekit.train.crew import Crew
from edgekit.train.epoch import Criterion, Done, NotANumber, Trainer, loss_of, precision
from edgekit.train.loader import Loader, Pace
from edgekit.train.metrics import predict, score
from edgekit.train.record import Record
from edgekit.types import Checkpoint, Epoch, Index, InputSpec, Metrics, Split

After = Callable[[Epoch], None]
"""Called after each epoch over all layers."""


def train(
    recipe: Recipe,
    index: Index,
    root: Path,
    base: Path,
    work: Path,
    console: Console,
    after_epoch: After | None = None,
    crew: Crew | None = None,
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
        work: existing folder that gets ``model.safetensors``, ``checkpoint.json`` and ``training.csv``.
        console: progress.
        after_epoch: called once each epoch over all layers is saved; what it raises ends the training, which can be
            gone on with.
        crew: the processes that train together; the first of them writes.

    Raises:
        InputError: the model, its weights or the data cannot be used, or they number the classes differently.
        Shortfall: the loss is not a number; the best epoch so far is in `work`.
        OSError: the disk is full.
    """
    section, crew = recipe.train, crew or Crew()
    torch.manual_seed(section.seed if section else 0)
    data, notes = recipe.data, list[str]()
    module, model, spec = models.create(
        recipe.model, len(index.labels), data.shape, base, section is not None, notes.append, data.resize, data.pad
    )
    if section is not None and section.init is not None:
        optim.initialise(module.modules(), section.init)
    for note in notes:
        console.say(f"  {note}")
    module = module.to(device())
    module = module.to(memory_format=eager.fastest_format(module, torch.zeros(2, *spec.shape)))
    draft = Checkpoint(models.WEIGHTS, model, spec, index.labels, trained=section is not None, notes=tuple(notes))

    def scores(*splits: Split) -> tuple[Metrics, ...]:
        return tuple(score_split(module, index, root, spec, split, crew) for split in splits if index.split(split))

    def write(history: list[Epoch], metrics: tuple[Metrics, ...], doubts: tuple[str, ...] = ()) -> Checkpoint:
        parameters, macs = models.count(module, spec.shape)
        checkpoint = replace(draft, history=tuple(history), metrics=metrics, doubts=doubts)
        checkpoint = replace(checkpoint, parameters=parameters, macs=macs)
        if not crew.rank:
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
    images = Images(index, root, spec, section, crew)
    if section.batch > len(images.train):
        console.say(
            f"  train.batch = {section.batch} exceeds the {len(images.train)} training images: an epoch is one step"
        )
    criterion = loss_of(section, [sample.label for sample in images.train.samples], index.labels)
    criterion = teacher.criterion(recipe, base, spec, index.labels, criterion)
    settings = {"name": recipe.name, **{f"train.{key}": value for key, value in section.model_dump().items()}}
    record = Record(work, [] if crew.rank else section.loggers, settings)
    with memory.kept(), deterministic(), crew.watched():
        mark = fingerprint(recipe, index, module)
        if recipe.distill is not None:
            mark += f" {recipe.distill.model_dump_json()} {teacher.digest(recipe.distill.teacher, base)}"
        found = crew.tell(None if crew.rank else read(work, mark))
        if found is not None:
            state.restore(found)
            record.resume(state.history)
            console.say(f"  resuming after epoch {state.history[-1].epoch}")
        else:
            state.precision = crew.tell(precision(section, module, spec.shape))

        def close(done: Done | None, pace: Pace | None) -> None:
            if not crew.rank:
                state.save(work, mark)
                if advice := record.add(state.history[-1], done, pace):
                    console.say(f"  {advice}")
            if after_epoch is not None and done is not None:
                after_epoch(state.history[-1])

        try:
            fit(state, section, images, close, console, criterion)
        except NotANumber as trouble:
            kept = "no epoch was finished"
            if state.history:
                module.load_state_dict(state.best)
                write(state.history, scores("val"))
                kept = f"the weights of epoch {state.history[state.best_epoch].epoch} are kept"
            raise Shortfall(f"train: {trouble}; {kept}: lower train.lr = {section.lr:g} or train.head_lr") from None
        finally:
            record.close()
        module.load_state_dict(state.best)
        checkpoint = write(state.history, scores("val", "test"))
    (work / LAST).unlink(missing_ok=True)
    return checkpoint


class Images:
    """The training and validation images of a run."""

    def __init__(
        self, index: Index, root: Path, spec: InputSpec, section: TrainSection, crew: Crew | None = None
    ) -> None:
        self.crew = crew or Crew()
        self.train = ImageSet(index, root, "train", spec, section.augment, section.seed)
        self.plain = partial(ImageSet, index, root, "train", spec)  # used once, so not kept in memory
        self.val = ImageSet(index, root, "val", spec) if index.split("val") else None
        self.classes = len(index.labels)
        least = 2 * self.crew.size  # for batch norms, in each process
        if len(self.train) < least:
            raise InputError(f"train: the training split has {len(self.train)} images; at least {least} are needed")
        if self.crew.size > 1 and section.batch < least:
            raise InputError(
                f"train.batch = {section.batch} is too small for {self.crew.size} processes: give at least {least}"
            )


def start(module: nn.Module, section: TrainSection) -> State:
    """A run before its first epoch.

    Raises:
        InputError: the recipe's optimizer cannot be used.
    """
    average = None
    if section.ema is not None:
        average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(section.ema), use_buffers=True)  # type: ignore[no-untyped-call]
    scaler = torch.GradScaler("cuda") if section.precision == "fp16" and device().type == "cuda" else None
    return State(module, optim.optimizer(module, section), average, scaler)


def fit(
    state: State,
    section: TrainSection,
    images: Images,
    close: Callable[[Done | None, Pace | None], None],
    console: Console,
    criterion: Criterion,
    pause: int | None = None,
) -> None:
    """Train the remaining epochs.

    Args:
        state: the run so far.
        section: how to train.
        images: what to train and validate on.
        close: called after each epoch, which is the last of `state.history`; saves the state.
        console: progress.
        criterion: the loss of the epochs over all layers.
        pause: stop after this epoch, if more were to come.

    Raises:
        Paused: it did.
        NotANumber: the loss or a weight is not a number.
    """
    with Loader(images.train, section, images.crew).started() as loader:
        if section.frozen and not state.history:
            _fit_head(state, section, images)
            _close_epoch(state, console, section.epochs)
            close(None, None)
        trainer = Trainer(state, section, loader, criterion, images.crew, images.classes)
        done = sum(epoch.phase == "all" for epoch in state.history)
        for epoch in range(done + 1, section.epochs + 1):
            if pause is not None and epoch > pause:
                raise Paused(state.history[state.best_epoch].val_accuracy, epoch - 1, state.history[-1].seconds)
            if _patience_is_over(state.history, section.patience):
                console.say(f"  no better validation loss for {section.patience} epochs: stopping early")
                break
            began = time.perf_counter()
            trained = trainer.epoch(epoch, console)
            val_loss, val_accuracy = validate(state.scored, images.val, images.crew)
            if val_loss is not None and not math.isfinite(val_loss):
                raise NotANumber(f"the validation loss is {val_loss} after epoch {epoch}")
            if not all(weight.isfinite().all() for weight in state.scored.parameters()):
                raise NotANumber(f"some weights are not numbers after epoch {epoch}")
            scores = trained.loss, trained.accuracy, val_loss, val_accuracy
            state.history.append(Epoch(epoch, "all", trained.rate, *scores, time.perf_counter() - began))
            _close_epoch(state, console, section.epochs)
            close(trained, loader.pace)


def _fit_head(state: State, section: TrainSection, images: Images) -> None:
    began = time.perf_counter()
    classifier = models.head(state.module)
    inputs, labels = _head.features(state.module, images.plain(), crew=images.crew)
    _head.fit(classifier, inputs, labels, section.frozen, section.label_smoothing)
    with torch.no_grad():
        logits = per_class(classifier(inputs).flatten(1))
    loss = functional.cross_entropy(logits, labels, label_smoothing=section.label_smoothing).item()
    if not math.isfinite(loss):
        raise NotANumber("the loss of the head is not a number")
    hits = (logits.argmax(1) == labels).float().mean().item()
    if state.average is not None:
        state.average.module.load_state_dict(state.module.state_dict())
    val_loss, val_accuracy = validate(state.scored, images.val, images.crew)
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


def validate(module: nn.Module, images: ImageSet | None, crew: Crew | None = None) -> tuple[float | None, float | None]:
    """Mean loss and accuracy on the validation split, if there is one."""
    if images is None:
        return None, None
    logits, labels = predict(module, images, crew=crew)
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


def score_split(
    module: nn.Module, index: Index, root: Path, spec: InputSpec, split: Split, crew: Crew | None = None
) -> Metrics:
    """Run the network over a split and score it."""
    logits, labels = predict(module, ImageSet(index, root, split, spec), crew=crew)
    return score(logits, labels.numpy(), index.labels, split)


def device() -> torch.device:
    """Where to train: the GPU if there is one."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


@contextmanager
def deterministic() -> Iterator[None]:
    """Use only algorithms that give the same bits each time; on the CPU alone, where this costs nothing.

    torch would also fill all memory that it allocates, for programs that read what they never wrote, which takes time.
    """
    fills: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), fills.fill_uninitialized_memory
    torch.use_deterministic_algorithms(not torch.cuda.is_available())
    fills.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        fills.fill_uninitialized_memory = before[1]
