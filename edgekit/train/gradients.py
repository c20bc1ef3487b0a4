"""Watches the gradients of each layer, and names layers in which they vanish or explode."""

from __future__ import annotations

import math
from statistics import median

import torch
from torch import Tensor, nn

SAMPLES = 8
"""Steps of an epoch that are looked at."""
LEAST = 1e-6
"""Norm below which weights are about zero, as some begin, and say nothing about their gradients."""
VANISHING, EXPLODING = 1e-8, 10.0
"""Gradient over weight, as norms: of a layer that does not move, and of one that any usual step throws out."""


class Watch:
    """Gradient over weight of each layer, sampled over one epoch.

    Args:
        module: the network.
        steps: of the epoch.
    """

    def __init__(self, module: nn.Module, steps: int) -> None:
        self._every = max(steps // SAMPLES, 1)
        self._weights = {
            name.rpartition(".")[0]: weight for name, weight in module.named_parameters() if weight.ndim > 1
        }
        self._seen: dict[str, list[float]] = {name: [] for name in self._weights}
        self._totals: list[float] = []

    def due(self, step: int) -> bool:
        """Whether `look` is to be called after this step's gradients were computed."""
        return step % self._every == 0

    def look(self) -> None:
        """Note the gradients as they are."""
        known = {name: weight for name, weight in self._weights.items() if weight.grad is not None}
        gradients: list[Tensor] = [weight.grad for weight in known.values() if weight.grad is not None]
        if not known:
            return
        with torch.no_grad():
            sizes = torch.stack([gradient.norm() for gradient in gradients])
            weights = torch.stack([weight.norm() for weight in known.values()])
        self._totals.append(float(sizes.norm()))
        for name, size, weight in zip(known, sizes.tolist(), weights.tolist(), strict=True):
            if weight > LEAST:
                self._seen[name].append(size / weight)

    @property
    def norm(self) -> float | None:
        """Median norm of all weights' gradients together; None if there were none."""
        return median(self._totals) if self._totals else None

    def warnings(self) -> list[str]:
        """One line for vanishing gradients, one for exploding ones, each with the layers."""
        ratios = {name: median(seen) for name, seen in self._seen.items() if seen}
        small = [name for name, ratio in ratios.items() if ratio < VANISHING]
        large = [name for name, ratio in ratios.items() if ratio > EXPLODING]
        found = []
        if small and len(small) < len(ratios):
            found.append(f"gradients vanish in {_some(small)}: less than {VANISHING:g} of the weights")
        if large:
            found.append(f"gradients explode in {_some(large)}: more than {EXPLODING:g} times the weights")
        return found


def first_broken(module: nn.Module) -> str | None:
    """The first layer with a gradient that is not a number; None if there is none."""
    for name, weight in module.named_parameters():
        if weight.grad is not None and not math.isfinite(float(weight.grad.sum())):
            return name
    return None


def _some(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more layers" if len(names) > most else "")
