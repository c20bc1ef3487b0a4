"""Optimizers and their parameter groups."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from edgekit.config.recipe import TrainSection
from edgekit.models import head


def optimizer(module: nn.Module, section: TrainSection) -> torch.optim.Optimizer:
    """AdamW, or SGD with Nesterov momentum 0.9.

    The head has its own rate; norms and biases (everything with fewer than two dimensions) have no weight decay. Each
    group keeps its peak rate as ``group["peak"]``.

    Args:
        module: the whole network.
        section: the recipe's ``[train]``.
    """
    in_head = {id(parameter) for parameter in head(module).parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in module.parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) in in_head, parameter.ndim > 1), []).append(parameter)
    plan: list[dict[str, Any]] = []
    for (own, decayed), parameters in groups.items():
        peak = section.head_lr if own and section.head_lr is not None else section.lr
        plan.append(
            {
                "params": parameters,
                "lr": peak,
                "peak": peak,
                "weight_decay": section.weight_decay if decayed else 0.0,
            }
        )
    if section.optimizer == "sgd":
        return torch.optim.SGD(plan, lr=section.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(plan, lr=section.lr)


def set_rates(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Set every group's rate to `share` of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share
