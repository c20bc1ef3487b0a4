"""Optimizers by name, and their parameter groups."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from edgekit import choices
from edgekit.config.train_section import TrainSection
from edgekit.errors import InputError
from edgekit.models import head


def optimizer(module: nn.Module, section: TrainSection) -> torch.optim.Optimizer:
    """AdamW, SGD with Nesterov momentum, or any other of timm's.

    The head has its own rate; with ``layer_decay``, each group of layers has the rate of the next one times that
    factor (Howard and Ruder 2018; Clark et al. 2020). Norms and biases (everything with fewer than two dimensions) have
    no weight decay. Each parameter group keeps its peak rate as ``group["peak"]``.

    Args:
        module: the whole network.
        section: the recipe's ``[train]``.

    Raises:
        InputError: timm has no optimizer of that name, or cannot make it here.
    """
    in_head = {id(parameter) for parameter in head(module).parameters()}
    decay = section.layer_decay
    depth = depths(module) if decay is not None else {}
    last = max(depth.values(), default=0)
    groups: dict[tuple[bool, bool, int], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            place = depth.get(name, last)
            groups.setdefault((id(parameter) in in_head, parameter.ndim > 1, place), []).append(parameter)
    plan: list[dict[str, Any]] = []
    for (own, decayed, place), parameters in groups.items():
        peak = section.head_lr if own and section.head_lr is not None else section.lr
        if decay is not None and not own:
            peak *= decay ** (last - place)
        plan.append(
            {
                "params": parameters,
                "lr": peak,
                "peak": peak,
                "weight_decay": section.weight_decay if decayed else 0.0,
            }
        )
    if section.optimizer == "sgd":
        return torch.optim.SGD(plan, lr=section.lr, momentum=section.momentum, nesterov=section.momentum > 0)
    if section.optimizer == "adamw":
        return torch.optim.AdamW(plan, lr=section.lr)
    return _from_timm(plan, section)


def check(name: str) -> None:
    """Check that there is an optimizer of this name.

    Raises:
        InputError: there is none; similar names are listed.
    """
    from timm.optim import list_optimizers

    known = list_optimizers()
    if name not in known:
        raise InputError(f"train.optimizer: {choices.no_such(name, known, 'optimizer')}")


def _from_timm(plan: list[dict[str, Any]], section: TrainSection) -> torch.optim.Optimizer:
    from timm.optim import create_optimizer_v2

    check(section.optimizer)
    try:
        made: torch.optim.Optimizer = create_optimizer_v2(
            plan, section.optimizer, lr=section.lr, momentum=section.momentum
        )
    except Exception as error:  # some need a package or a GPU, and say so in several ways
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(f'train.optimizer: "{section.optimizer}" cannot be used here: {reason}') from error
    return made


def depths(module: nn.Module, coarse: bool = False) -> dict[str, int]:
    """How deep in the network each parameter is, from 0 at the input; the head is deepest.

    Args:
        module: the network; one of timm says itself what belongs together.
        coarse: whole stages instead of single blocks.
    """
    matcher = getattr(module, "group_matcher", None)
    if callable(matcher):
        from timm.models import group_parameters

        found: dict[str, int] = group_parameters(module, matcher(coarse=coarse), reverse=True)
        return found
    own = {
        name
        for name, parameter in module.named_parameters()
        if any(parameter is one for one in head(module).parameters())
    }
    places: dict[str, int] = {}
    for name, _ in module.named_parameters():
        if name not in own:
            places.setdefault(_part(name), len(places))
    return {name: len(places) if name in own else places[_part(name)] for name, _ in module.named_parameters()}


def _part(name: str) -> str:
    """``features.3`` of ``features.3.conv.0.weight``: networks that are no timm models are mostly numbered so."""
    words = name.split(".")[:-1]
    return ".".join(words[:2] if len(words) > 1 and words[1].isdigit() else words[:1])


def unfrozen(module: nn.Module, groups: int) -> set[str]:
    """Names of the parameters in the last so many groups of layers, the head's among them."""
    depth = depths(module, coarse=True)
    first = max(depth.values()) - groups + 1
    return {name for name, place in depth.items() if place >= first}


def set_rates(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Set every group's rate to `share` of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share


def initialise(parts: Iterable[nn.Module], kind: str) -> None:
    """Initialise convolutions and linear layers as in He et al. 2015 (kaiming) or Glorot and Bengio 2010 (xavier).

    Biases become 0, batch norms 1 and 0.
    """
    for part in parts:
        if isinstance(part, nn.Conv2d | nn.Linear):
            if kind == "kaiming":
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            else:
                nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
            for tensor, value in ((part.weight, 1.0), (part.bias, 0.0)):
                if tensor is not None:
                    nn.init.constant_(tensor, value)
