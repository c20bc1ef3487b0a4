"""One epoch over all layers."""

from __future__ import annotations

import copy
import math
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgekit import choices, ends
from edgekit.config.train_section import TrainSection
from edgekit.console import Console
from edgekit.errors import InputError, Shortfall
from edgekit.graph import eager
from edgekit.graph.logits import per_class
from edgekit.train import gradients, memory, mixing
from edgekit.train._state import State
from edgekit.train.crew import Crew, whole_batches
from edgekit.train.loader import Loader
from edgekit.train.optim import set_rates, unfrozen

Criterion = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From the images, the logits of each class and the targets of a batch (classes, or their shares) to its mean loss."""


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LEAST = 2
"""Images of a batch, for batch norms."""
FASTER = 0.95
"""Share of float32's time that bfloat16 may take on a CPU to be used there."""


class NotANumber(Exception):
    """The loss or a weight is not a number; the message says where."""


@dataclass(frozen=True)
class Done:
    """What an epoch was like, as means over its images."""

    loss: float
    accuracy: float
    rate: float
    """Learning rate of its last step."""
    gradient: float | None
    """Median norm of all gradients."""


class Trainer:
    """Trains a network, an epoch at a time.

    Args:
        state: the network, its optimizer and its average; kept up to date.
        section: how to train.
        loader: the images.
        criterion: the loss.
        crew: the processes that train together.
        classes: number of them.
    """

    def __init__(
        self, state: State, section: TrainSection, loader: Loader, criterion: Criterion, crew: Crew, classes: int
    ) -> None:
        self._state, self._section, self._loader, self._criterion = state, section, loader, criterion
        self._crew = crew
        self._mix = mixing.mixer(section, classes)
        self._device = next(state.module.parameters()).device
        self._dtype = DTYPES[state.precision]
        self._schedule = choices.pick("edgekit.train.schedules", section.schedule, "train.schedule")
        self._net: nn.Module | None = None
        self._groups = 0
        """Of layers that are trained; only with gradual unfreezing."""

    def epoch(self, number: int, console: Console) -> Done:
        """Train the epoch of this number, from 1.

        Raises:
            NotANumber: the loss is none.
            InputError: the network does not return a tensor in training.
            Shortfall: the GPU's memory does not hold the batch.
        """
        section, state, crew = self._section, self._state, self._crew
        torch.manual_seed(_mixed(section.seed, number))  # dropout, stochastic depth, mixing
        batches = self._loader.groups(number - 1)
        updates = math.ceil(len(batches) / section.accumulate)
        losses = [
            one.val_loss if one.val_loss is not None else one.train_loss for one in state.history if one.phase == "all"
        ]
        watch = gradients.Watch(state.module, updates)
        rate, sums = 0.0, [0.0, 0.0, 0.0]
        with self._training(number), console.bar(f"epoch {number}/{section.epochs}", len(batches)) as advance:
            net = self._wrapped()
            for step, (values, labels) in enumerate(self._loader.epoch(number - 1, batches)):
                update, place = divmod(step, section.accumulate)
                members = batches[update * section.accumulate :][: section.accumulate]
                last = place == len(members) - 1
                if not place:
                    rate = self._schedule.factor(
                        section, (number - 1) * updates + update, section.epochs * updates, losses
                    )
                    set_rates(state.optimizer, rate)
                    state.optimizer.zero_grad()
                share = len(labels) * crew.size / sum(map(len, members))
                with nullcontext() if last else crew.apart(net):
                    loss, right = self._backward(net, values, labels, share)
                loss, hits, images = crew.total(loss * len(labels), right, len(labels))
                if not math.isfinite(loss):
                    raise NotANumber(self._broken(loss / images, number, step, len(batches)))
                if last:
                    self._step(watch if watch.due(update) else None)
                sums = [total + one for total, one in zip(sums, (loss, hits, images), strict=True)]
                advance(1, f"loss {sums[0] / sums[2]:.3f}")
        for text in watch.warnings():
            console.say(f"  epoch {number}: {text}")
        return Done(sums[0] / sums[2], sums[1] / sums[2], section.lr * rate, watch.norm)

    def at(self, shares: Sequence[float]) -> Iterator[float]:
        """The loss of a step at each of some rates, given as shares of their peaks; ends early if it is not finite."""
        section, state = self._section, self._state
        left, number = iter(shares), 0
        with self._training(1):
            net = self._wrapped()
            while True:
                torch.manual_seed(_mixed(section.seed, number + 1))
                for values, labels in self._loader.epoch(number, self._loader.groups(number)):
                    share = next(left, None)
                    if share is None:
                        return
                    set_rates(state.optimizer, share)
                    state.optimizer.zero_grad()
                    loss, _ = self._backward(net, values, labels, 1.0)
                    yield loss
                    if not math.isfinite(loss):
                        return
                    self._step(None)
                number += 1

    def _backward(self, net: nn.Module, values: Tensor, labels: Tensor, share: float) -> tuple[float, int]:
        """Add the gradients of a batch, times its share of a step; returns its mean loss and its hits."""
        targets = labels = labels.to(self._device)
        values = values.to(self._device, memory_format=eager.format_of(self._state.module))
        if self._mix is not None:
            values, targets = self._mix(values, labels)
        narrow = self._dtype is not torch.float32
        with torch.autocast(self._device.type, self._dtype) if narrow else nullcontext():
            output = net(values)
        if not isinstance(output, Tensor):
            said = ends.described(output)
            raise InputError(f"model: in training the network returns {said}, or turn the others off in model.options")
        logits = per_class(output.float() if narrow else output)
        loss = self._criterion(values, logits, targets)
        scaled = loss if share == 1 else loss * share
        torch.autograd.backward(self._state.scaler.scale(scaled) if self._state.scaler is not None else scaled)
        return loss.item(), int((logits.argmax(1) == labels).sum())

    def _step(self, watch: gradients.Watch | None) -> None:
        """Move the weights along the gradients."""
        state, clip = self._state, self._section.clip
        if state.scaler is not None:
            state.scaler.unscale_(state.optimizer)
        if watch is not None:
            watch.look()
        if clip is not None:
            nn.utils.clip_grad_norm_(state.module.parameters(), clip)
        if state.scaler is not None:
            state.scaler.step(state.optimizer)
            state.scaler.update()
        else:
            state.optimizer.step()
        if state.average is not None:
            state.average.update_parameters(state.module)

    def _no_room(self) -> str:
        """Which part of the batch fits into the GPU's memory."""
        batch, accumulate, least = self._section.batch, self._section.accumulate, LEAST * self._crew.size
        text = f"train: the GPU's memory does not hold train.batch = {batch}"
        part = memory.part(batch, least, self._fits)
        if part is None:
            return f"{text}: not even {least} images fit: lower data.input, or take a smaller network"
        count = batch // part * accumulate
        return f"{text}, but {part}: set that and train.accumulate = {count}, for steps of {part * count} images"

    def _fits(self, batch: int) -> bool:
        """Whether a step on so many images does not run out of memory; in this process alone, as the others wait."""
        state, crew = self._state, self._crew
        state.optimizer.zero_grad()
        share = math.ceil(batch / crew.size)
        images, labels = torch.zeros(share, *self._loader.shape), torch.zeros(share, dtype=torch.int64)
        try:
            net = self._wrapped() if crew.size == 1 else copy.deepcopy(state.module)  # the wrapped one meets the others
            self._backward(net, images, labels, 1.0)
            for weight, copied in zip(state.module.parameters(), net.parameters(), strict=True):
                weight.grad = copied.grad
            self._step(None)
        except torch.OutOfMemoryError:
            return False
        return True

    def _broken(self, loss: float, epoch: int, step: int, steps: int) -> str:
        text = f"the loss is {loss} at epoch {epoch}, step {step + 1} of {steps}"
        layer = gradients.first_broken(self._state.module)
        return f"{text}; the first gradient that is not a number is that of {layer}" if layer else text

    def _wrapped(self) -> nn.Module:
        if self._net is None:
            net: nn.Module = self._state.module
            self._net = self._crew.wrap(compiled(net) if self._section.compile else net)
        return self._net

    @contextmanager
    def _training(self, number: int) -> Iterator[None]:
        """Put the network into training mode, but what is frozen in this epoch."""
        module, section = self._state.module, self._section
        module.train()
        frozen: list[nn.Parameter] = []
        if section.unfreeze is not None:
            groups = 1 + (number - 1) // section.unfreeze
            if groups != self._groups:
                self._net, self._groups = None, groups
            alive = unfrozen(module, groups)
            frozen = [
                weight for name, weight in module.named_parameters() if name not in alive and weight.requires_grad
            ]
        for weight in frozen:
            weight.requires_grad_(False)
        still = set(map(id, frozen))
        for child in module.modules():
            weights = list(child.parameters(recurse=False))
            if isinstance(child, _BatchNorm) and (
                section.batch_norm == "frozen" or (weights and id(weights[0]) in still)
            ):
                child.eval()
        try:
            with whole_batches(module, self._crew):
                yield
        except torch.OutOfMemoryError as error:
            traceback.clear_frames(error.__traceback__)  # they hold what the failed pass had laid out
            raise Shortfall(self._no_room()) from error
        finally:
            for weight in frozen:
                weight.requires_grad_(True)


def loss_of(section: TrainSection, labels: Sequence[int], names: Sequence[str]) -> Criterion:
    """The loss that a recipe names, for the classes of its training images.

    Raises:
        InputError: it weights a class that there is not.
    """
    from edgekit.train import balance

    module = choices.pick("edgekit.train.losses", section.loss, "train.loss")
    of = module.criterion(section, balance.weights(section, labels, names))
    return lambda _, logits, targets: of(logits, targets)


def compiled(module: nn.Module) -> nn.Module:
    """The network through ``torch.compile``, which needs a C++ compiler.

    Raises:
        InputError: there is none.
    """
    if next(module.parameters()).device.type == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        raise InputError("train.compile: torch.compile needs a C++ compiler, and there is none: install g++")
    made: nn.Module = torch.compile(module)  # type: ignore[assignment]
    return made


def precision(section: TrainSection, module: nn.Module, shape: Sequence[int]) -> str:
    """The precision that a recipe asks for; "auto" becomes the one that is faster.

    Args:
        section: the recipe's [train].
        module: the network, on its device; it is not changed.
        shape: of an image.

    Raises:
        InputError: this device does not have it.
    """
    device = next(module.parameters()).device
    if section.precision == "fp16" and device.type == "cpu":
        raise InputError('train.precision: "fp16" is for GPUs; on a CPU use "fp32", or "auto", which measures bf16')
    if section.precision != "auto":
        return section.precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    images = torch.randn(section.batch, *shape, generator=torch.Generator().manual_seed(0))
    seconds = {name: _step_seconds(module, images, DTYPES[name]) for name in ("fp32", "bf16")}
    return "bf16" if seconds["bf16"] < FASTER * seconds["fp32"] else "fp32"


def _step_seconds(module: nn.Module, images: Tensor, dtype: torch.dtype, rounds: int = 3) -> float:
    """The least time of a pass forward and back."""
    net, times = copy.deepcopy(module).train(), []
    with torch.random.fork_rng(devices=()):
        for _ in range(rounds):
            began = time.perf_counter()
            with torch.autocast("cpu", dtype) if dtype is not torch.float32 else nullcontext():
                output = net(images)
            torch.autograd.backward(output.float().square().mean())
            times.append(time.perf_counter() - began)
    return min(times)


def _mixed(seed: int, epoch: int) -> int:
    """Mix two numbers into one seed; seeds of neighbouring epochs are unrelated."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])
