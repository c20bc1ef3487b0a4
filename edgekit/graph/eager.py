"""The user's network as PyTorch runs it: what it can be asked for, and in which memory format."""

from __future__ import annotations

import copy
import os
import traceback
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgekit.errors import InputError

FLOAT_NOISE = 1e-3
"""Largest difference, relative to the largest output, that the order of float sums can explain."""


def fastest_format(module: nn.Module, images: Tensor) -> torch.memory_format:
    """Channels-last if the network runs in it, training and not, else contiguous: ``x.view(len(x), -1)`` does not.

    Args:
        module: on any device; neither it nor the state of torch's generator for the CPU is changed.
        images: at least two, of any values.
    """
    copied = copy.deepcopy(module).to(memory_format=torch.channels_last)
    batch = images.to(next(copied.parameters()).device, memory_format=torch.channels_last)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=()):
            copied.eval()(batch)
            copied.train()(batch)
    except Exception:  # views of memory fail in several ways
        return torch.contiguous_format
    return torch.channels_last


def format_of(module: nn.Module) -> torch.memory_format:
    """The memory format of a network's weights, which its images should have, too."""
    strided = (weight for weight in module.parameters() if weight.ndim == 4 and not weight.is_contiguous())
    last = any(weight.is_contiguous(memory_format=torch.channels_last) for weight in strided)
    return torch.channels_last if last else torch.contiguous_format


def release(module: nn.Module) -> None:
    """Detach weights that hooks have computed (``torch.nn.utils.weight_norm``), as torch copies no others."""
    for part in module.modules():
        for name, value in vars(part).items():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                vars(part)[name] = value.detach()


def check_repeatable(module: nn.Module, shape: tuple[int, ...]) -> None:
    """Check that an image always gets the same answer, whatever is beside it in a batch, as a device will give it.

    Args:
        module: in eval mode, on the CPU; random numbers for this do not come from torch's own generator.
        shape: of an image.

    Raises:
        InputError: it does not, or several images cannot be given at once; the message says where.
    """
    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad(), torch.random.fork_rng(devices=()):
        with _Random() as random:
            alone = module(images[:1])
        if random.places and _differ(alone, module(images[:1])):
            raise InputError(
                f"model.name: the same image gets another answer each time, in eval mode, too: {random.places[0]} "
                "draws random numbers; give dropout its mode, F.dropout(x, p, self.training), or use nn.Dropout"
            )
        try:
            together = module(images)
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            raise InputError(f"model.name: the network takes one image, but not a batch of two: {reason}") from error
    if together.shape[:1] != (2,) or (_differ(alone, together[:1]) and _depends(module, images)):
        layers = [name for name, part in module.named_modules() if getattr(part, "track_running_stats", True) is False]
        norms = [name for name in layers if "BatchNorm" in type(module.get_submodule(name)).__name__]
        where = f'batch norm "{norms[0]}"' if norms else "a layer"
        raise InputError(
            f"model.name: the answer for an image depends on the images beside it: {where} uses the statistics of the "
            "batch, and a device sees one image at a time; use track_running_stats=True, or a group or layer norm"
        )


def _depends(module: nn.Module, images: Tensor) -> bool:
    """Whether the first image's answer changes with the second in float64, too, where sums have next to no noise.

    In float32 a deep network may amplify the noise of its sums, which come in another order for a batch, to any size.
    """
    try:
        exact = copy.deepcopy(module).double()
        with torch.no_grad(), torch.random.fork_rng(devices=()):
            return _differ(exact(images[:1].double()), exact(images.double())[:1])
    except Exception:  # code that makes float32 tensors of its own: the difference stands
        return True


def _differ(one: Any, other: Any) -> bool:
    if not (isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape):
        return True
    if not bool(one.isfinite().all()):  # reported with the image that shows it
        return False
    return not float((one - other).abs().max()) <= FLOAT_NOISE * float(one.abs().max())


class _Random(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes where the network's code draws random numbers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.places: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            inside = (os.path.dirname(torch.__file__), os.path.abspath(__file__))
            frames = [each for each in traceback.extract_stack() if not each.filename.startswith(inside)]
            self.places.append(f'{frames[-1].filename}, line {frames[-1].lineno} ("{frames[-1].line}")')
        return func(*args, **(kwargs or {}))
