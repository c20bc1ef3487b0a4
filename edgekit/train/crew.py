"""Training in several processes at once, which torchrun starts: each takes its part of every batch.

Gradients are averaged by torch's DistributedDataParallel. The first process (rank 0) runs the command; the others wait
for what it wants to have trained.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.futures import Future
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from edgekit.errors import EdgekitError
from edgekit.train import exchange
from edgekit.train.exchange import Exchange

PATIENCE = timedelta(days=7)
"""How long the others wait for the first process, which may have to download the data."""
MEETING = 300.0
"""Seconds at least that processes wait for each other at the beginning."""
OF_GROUPS = ("gloo", "nccl", "timed out", "timeout", "connection", "broken pipe", "by peer")
"""Words of errors that are about other processes."""
AT_ONCE = 1 << 20
"""Megabytes of gradients that are averaged in one go: there is nothing to be gained from beginning earlier."""
ASKING = timedelta(seconds=10)
"""How long each has to answer when one is being looked for that hangs."""


class Lost(EdgekitError):
    """Another process is gone, and torchrun will start all of them again. What was trained so far is kept."""

    exit_code = 1


class Silent(Lost):
    """Another process does not answer; the message names it."""


@dataclass
class Crew:
    """The processes of a run, as one of them sees it; by default, it is alone.

    Args:
        rank: its place.
        size: how many there are.
        timeout: seconds that one may keep the others waiting.
    """

    rank: int = 0
    size: int = 1
    timeout: float = 300.0
    _orders: Any = None
    """The group in which they wait without limit."""
    exchange: Exchange | None = None
    """How they add up numbers; None if they are on GPUs or on several machines: torch does it."""
    lost: Lost | None = None
    """Why nothing can be told any more."""

    def own(self, batch: Sequence[int]) -> Sequence[int]:
        """This process's part of a batch: parts differ by at most one image."""
        return batch[self.rank * len(batch) // self.size : (self.rank + 1) * len(batch) // self.size]

    def wrap(self, module: nn.Module) -> nn.Module:
        """The network whose gradients are averaged over all processes, and whose batch norms see whole batches."""
        if self.size == 1:
            return module
        wrapped = DistributedDataParallel(
            module,
            forward_sync_buffers=False,
            gradient_as_bucket_view=True,
            bucket_cap_mb=None if self.exchange is None else AT_ONCE,
        )
        if self.exchange is not None:
            wrapped.register_comm_hook(None, lambda _, bucket: self._averaged(bucket.buffer()))
        return wrapped

    def _averaged(self, gradients: Tensor) -> Future[Tensor]:
        """Their averages over all processes, as torch's own hook gives them."""
        self.add(gradients)
        gradients /= self.size
        done: Future[Tensor] = Future()
        done.set_result(gradients)
        return done

    def apart(self, module: nn.Module) -> AbstractContextManager[None]:
        """Let each process keep its own gradients until the last batch of a step."""
        return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()

    def total(self, *numbers: float) -> list[float]:
        """The sums of some numbers over all processes."""
        held = torch.tensor(numbers, dtype=torch.float64)
        if self.size > 1 and dist.get_backend() == "nccl":
            held = held.cuda()
        self.add(held)
        return [float(number) for number in held]

    def add(self, values: Tensor) -> None:
        """Sum values over all processes, in place."""
        if self.exchange is not None:
            self.exchange.add(values)
        elif self.size > 1:
            dist.all_reduce(values)

    def gather(self, part: Tensor, length: int) -> Tensor:
        """Rows of which process r has computed every `size`-th, from r on, in order.

        Args:
            part: float [rows of this process, ...], on the CPU.
            length: rows of all of them.
        """
        if self.size == 1:
            return part
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, part)
        whole = part.new_empty(length, *part.shape[1:])
        for rank, rows in enumerate(parts):
            whole[rank :: self.size] = rows
        return whole

    def tell(self, value: Any = None) -> Any:
        """What the first process says; the others wait for it."""
        if self.size == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held, group=self._orders)
        return held[0]

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Tell a process that is gone from one that keeps the others waiting.

        Raises:
            Lost: one of them is gone.
            Silent: one of them hangs; the message names it.
        """
        try:
            yield
        except (RuntimeError, dist.DistError, ConnectionError, TimeoutError) as trouble:
            words = str(trouble).lower()
            if self.size == 1 or not any(word in words for word in OF_GROUPS):
                raise
            if "timed out" in words or "timeout" in words:
                self.lost = Silent(f"train: {self._missing()}")
            else:
                self.lost = Lost(f"train: a process of {self.size} has ended; the others go on from the last epoch")
            raise self.lost from trouble

    def _missing(self) -> str:
        text = f"a process of {self.size} did not answer within {self.timeout:g} s"
        try:
            dist.monitored_barrier(self._orders, ASKING, wait_all_ranks=True)
        except RuntimeError as trouble:
            if found := re.search(r"Ranks? ([\d, ]+) failed to pass", str(trouble)):
                text = f"rank {found[1]} of {self.size} did not answer within {self.timeout:g} s"
        return f"{text}: see what it does there; the same command goes on from the last epoch"


_current = Crew()


def current() -> Crew:
    """The crew of this process."""
    return _current


def _attempt(store: Any, rank: int, size: int) -> str:
    """A name that all processes of this attempt agree on, and none of an earlier one.

    When torchrun starts processes again, its store still holds the addresses of those that are gone. So the first
    process names the attempt, and the others wait until it has answered them, not an earlier process of their rank.
    """
    if rank == 0:
        name = uuid.uuid4().hex
        store.set("attempt", name)
        for other in range(1, size):
            store.set(f"{name}/answer/{other}", store.get(f"{name}/{other}"))
        return name
    own = uuid.uuid4().hex
    while True:
        name = str(store.get("attempt").decode())
        store.set(f"{name}/{rank}", own)
        for _ in range(10):
            if store.check([f"{name}/answer/{rank}"]) and store.get(f"{name}/answer/{rank}").decode() == own:
                return name
            time.sleep(0.1)


@contextmanager
def joined(timeout: float) -> Iterator[Crew]:
    """Join the processes that torchrun started.

    Args:
        timeout: seconds that one may keep the others waiting.
    """
    global _current
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    meeting = timedelta(seconds=max(timeout, MEETING))
    store, rank, size = next(rendezvous("env://", timeout=meeting))
    store = dist.PrefixStore(  # type: ignore[attr-defined]
        _attempt(store, rank, size), store
    )
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout), store=store, rank=rank, world_size=size)
    try:
        orders = dist.new_group(backend="gloo", timeout=PATIENCE)
        here = backend == "gloo" and int(os.environ["LOCAL_WORLD_SIZE"]) == size
        with exchange.joined(store, rank, size, timeout) if here else nullcontext() as sums:
            _current = Crew(rank, size, timeout, orders, sums)
            yield _current
    finally:
        _current = Crew()
        dist.destroy_process_group()


@contextmanager
def whole_batches(module: nn.Module, crew: Crew) -> Iterator[None]:
    """Let batch norms in training see the batch of all processes; torch's ``SyncBatchNorm`` does so on GPUs only."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)] if crew.size > 1 else []
    before = [vars(norm).get("forward") for norm in norms]
    for norm in norms:
        norm.forward = _Together(norm, crew)  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        for norm, forward in zip(norms, before, strict=True):
            if forward is None:
                del norm.forward
            else:
                norm.forward = forward  # type: ignore[method-assign]


class _Normalise(torch.autograd.Function):
    """Batch norm over the images of all processes, without more passes over the memory than that of one process.

    Its gradient is that of Ioffe and Szegedy, Batch Normalization (2015), with sums over all processes.
    """

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        variance: Tensor,
        count: Tensor,
        eps: float,
        crew: Crew,
    ) -> Tensor:
        ctx.save_for_backward(values, weight, mean, variance, count)
        ctx.eps, ctx.crew = eps, crew
        return functional.batch_norm(values, mean, variance, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        values, weight, mean, variance, count = ctx.saved_tensors
        (gradient,) = gradients
        _, products, sums = torch.ops.aten.native_batch_norm_backward(
            gradient, values, weight, mean, variance, None, None, False, ctx.eps, [False, True, True]
        )
        total = torch.stack([products, sums])  # over this process's images: of gradient times output, and of gradient
        ctx.crew.add(total)
        total /= count
        scale = torch.rsqrt(variance + ctx.eps)
        slope = -weight * scale.square() * total[0]
        inner = functional.batch_norm(  # slope * (values - mean) - weight * scale * mean gradient, in one pass
            values, mean, torch.ones_like(mean), slope, -weight * scale * total[1], eps=0.0
        )
        shape = [1, -1, *[1] * (values.dim() - 2)]
        return inner.addcmul_(gradient, (weight * scale).view(shape)), products, sums, None, None, None, None, None


class _Together:
    """The forward pass of one batch norm over all processes."""

    def __init__(self, norm: _BatchNorm, crew: Crew) -> None:
        self._norm, self._crew = norm, crew
        self._usual = norm.forward

    def __call__(self, values: Tensor) -> Tensor:
        norm = self._norm
        if not norm.training:
            return self._usual(values)
        wide = values.float()
        with torch.no_grad():
            own, spread = (each.double() for each in torch.batch_norm_update_stats(wide, None, None, 0.0))
            sums = wide.numel() // wide.shape[1] * torch.stack([own, spread + own.square(), torch.ones_like(own)])
            self._crew.add(sums)
            exact = sums[0] / sums[2]
            mean, count = exact.float(), sums[2].float()
            variance = (sums[1] / sums[2] - exact.square()).clamp(min=0).float()
            if norm.track_running_stats and norm.running_mean is not None and norm.running_var is not None:
                self._remember(mean, variance * count / (count - 1).clamp(min=1))
        weight = norm.weight if norm.affine else torch.ones_like(mean)
        bias = norm.bias if norm.affine else torch.zeros_like(mean)
        scaled: Tensor = _Normalise.apply(wide, weight, bias, mean, variance, count, norm.eps, self._crew)
        return self._activated(scaled.to(values.dtype))

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        norm: Any = self._norm
        norm.num_batches_tracked.add_(1)
        share = norm.momentum if norm.momentum is not None else 1.0 / float(norm.num_batches_tracked)
        norm.running_mean.lerp_(mean, share)
        norm.running_var.lerp_(variance, share)

    def _activated(self, values: Tensor) -> Tensor:
        """Timm's norms drop out and activate in the same module."""
        for name in ("drop", "act"):
            part = getattr(self._norm, name, None)
            if isinstance(part, nn.Module):
                values = part(values)
        return values
