"""The two ends of a network: how many channels its first convolution takes, and which of its outputs counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

from edgekit.choices import no_such
from edgekit.errors import InputError

# Input ---------------------------------------------------------------------------------------------


def widen(module: nn.Module, channels: int) -> None:
    """Give the first convolution over RGB another number of input channels, in place; its weights are random.

    Raises:
        InputError: there is none.
    """
    name = _first(module, 3)
    if name is None:
        raise InputError(f"data.channels = {channels}: this network has no convolution over 3 channels to adapt")
    old: Any = module.get_submodule(name)
    new = nn.Conv2d(
        channels, old.out_channels, old.kernel_size, old.stride, old.padding, old.dilation, bias=old.bias is not None
    )
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, new)


def adapted(module: nn.Module, state: Mapping[str, Tensor], channels: int) -> dict[str, Tensor]:
    """Weights of the same network over RGB, for one over `channels`.

    As timm does: of one channel the weights are summed, so that a grey image gives what its copy in RGB gave; more are
    repeated in turn, and scaled so that their sum stays.
    """
    name = _first(module, channels)
    key = f"{name}.weight"
    if channels == 3 or name is None or key not in state or state[key].ndim != 4 or state[key].shape[1] != 3:
        return dict(state)
    return {**state, key: adapt_input_conv(channels, state[key])}


def _first(module: nn.Module, channels: int) -> str | None:
    found = (
        name
        for name, part in module.named_modules()
        if isinstance(part, nn.Conv2d) and part.in_channels == channels and part.groups == 1
    )
    return next(found, None)


def per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Mean or standard deviation of RGB for `channels`: the average of the three, unless they are RGB."""
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels


# Output --------------------------------------------------------------------------------------------


def choose(module: nn.Module, entry: int | str) -> None:
    """Let a network that returns a tuple or dict return one of its entries; a tensor is passed on.

    Args:
        module: changed in place; what it computes and its names stay.
        entry: place in a tuple or list, or key of a dict or named tuple.
    """
    module.register_forward_hook(partial(_pick, entry))


def _pick(entry: int | str, module: nn.Module, args: Any, output: Any) -> Any:
    if isinstance(output, Tensor):  # torchvision's GoogLeNet returns a tuple in training only
        return output
    entries = _entries(output)
    if entry not in entries:
        raise InputError(f"model.output = {no_such(str(entry), [str(key) for key in entries], 'entry')}")
    return entries[entry]


def _entries(output: Any) -> dict[int | str, Any]:
    if isinstance(output, Mapping):
        return dict(output)
    if isinstance(output, tuple | list):
        return {**dict(enumerate(output)), **dict(zip(getattr(output, "_fields", ()), output, strict=False))}
    return {}


def unused(module: nn.Module, shape: tuple[int, int, int]) -> bool:
    """Whether a network returns a tensor both in eval mode and in training, so that there is nothing to choose.

    Args:
        module: in eval mode; not changed.
        shape: of its input, without the batch.
    """
    import copy

    with torch.no_grad():
        return all(
            isinstance(each.forward(torch.zeros(2, *shape)), Tensor) for each in (module, copy.deepcopy(module).train())
        )


def described(output: Any) -> str:
    """What a network returned, for a message: a shape, or the entries to choose from."""
    if isinstance(output, Tensor):
        return str(tuple(output.shape))
    entries = _entries(output)
    if not entries:
        return type(output).__name__
    listed = ", ".join(
        f"{key!r}: {tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__}"
        for key, value in entries.items()
    ).replace("'", '"')
    first = next(iter(entries))
    example = f'"{first}"' if isinstance(first, str) else str(first)
    return f"{type(output).__name__} ({listed}); say which entry to take: model.output = {example}"
