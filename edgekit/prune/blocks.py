"""Whole residual blocks, which a network can do without: what they compute is added to what they were given.

Veit et al.: Residual Networks Behave Like Ensembles of Relatively Shallow Networks (2016).
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgekit.choices import no_such
from edgekit.errors import InputError
from edgekit.types import Size, shape_of

_Ends = nn.Conv2d | nn.Linear | _BatchNorm


def residual(module: nn.Module, size: Size) -> dict[str, str]:
    """The blocks that return their input when the last layer in them returns zeros, found by trying.

    Args:
        module: any network; it is not changed.
        size: shape of an image.

    Returns:
        The name of that last layer, by the block's name, in the order in which they run; of nested blocks, the inner.
    """
    module = copy.deepcopy(module).eval()
    names = {child: name for name, child in module.named_modules()}
    calls: Counter[nn.Module] = Counter()
    last: dict[nn.Module, nn.Module] = {}
    inputs: dict[nn.Module, Tensor] = {}
    running: list[nn.Module] = []

    def enter(child: nn.Module, given: tuple[Any, ...]) -> None:
        running.append(child)
        calls[child] += 1
        if len(given) == 1 and isinstance(given[0], Tensor):
            inputs[child] = given[0].clone()

    def leave(child: nn.Module, given: Any, output: Any) -> None:
        running.pop()
        if isinstance(child, _Ends):
            last.update(dict.fromkeys(running, child))
        if not isinstance(output, Tensor) or child not in inputs or output.shape != inputs[child].shape:
            inputs.pop(child, None)

    hooks = [child.register_forward_pre_hook(enter) for child in names]
    hooks += [child.register_forward_hook(leave) for child in names]
    image = torch.rand(1, *shape_of(size), generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        module(image.to(next(module.parameters()).device))
        for hook in hooks:
            hook.remove()
        found: dict[str, str] = {}
        for child in sorted(inputs, key=lambda each: -names[each].count(".")):
            name, given = names[child], inputs[child]
            inner = any(other.startswith(f"{name}.") for other in found)
            if child not in last or inner or not given.any() or max(calls[child], calls[last[child]]) > 1:
                continue
            trial = copy.deepcopy(child)
            _silence(trial.get_submodule(names[last[child]].removeprefix(f"{name}.")))
            if torch.equal(trial(given), given):
                found[name] = names[last[child]]
    order = list(names.values())
    return dict(sorted(found.items(), key=lambda item: order.index(item[0])))


def drop(module: nn.Module, names: Sequence[str], size: Size) -> None:
    """Take blocks out of a network, in place.

    Raises:
        InputError: there is no such residual block.
    """
    known = residual(module, size) if names else {}
    for name in names:
        if name not in known:
            raise InputError(f"prune plan: {no_such(name, known, 'residual block')}: the plan is for another network")
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, nn.Identity())


def silence(module: nn.Module, names: Sequence[str], size: Size) -> None:
    """Let blocks add nothing to their input, in place: all layers stay, the last one of each returns zeros."""
    known = residual(module, size) if names else {}
    for name in names:
        _silence(module.get_submodule(known[name]))


def _silence(layer: nn.Module) -> None:
    with torch.no_grad():
        for parameter in (layer.weight, layer.bias):
            if isinstance(parameter, Tensor):
                parameter.zero_()
