"""What a pruned network may cost, in multiply-adds, parameters, or predicted milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from edgekit.prune.cost import Cost

Gone = Mapping[str, int]
"""How many channels were removed, by the head of their group."""
CostOf = Callable[[Gone], float]


@dataclass(frozen=True)
class Aim:
    """A budget, and how channels are ranked on the way to it."""

    said: str
    """Where the user asked for it, e.g. ``prune.macs``."""
    share: float
    """Of what the whole network costs, 0..1."""
    of: Callable[[Cost], CostOf]
    """What a network costs, in any unit."""
    per_cost: bool = False
    """Remove first what matters least for what it costs, as HALP does (Shen et al.: Structural Pruning via
    Latency-Saliency Knapsack, 2022), not what matters least."""
    scores: Literal["relative", "absolute"] = "relative"
    """``relative``: to the mean of their group, so that no layer is pruned because its weights are small;
    ``absolute``: as they are, for scores that estimate the loss."""


def counted(kind: str, share: float) -> Aim:
    """A share of the multiply-adds ("macs") or parameters."""
    return Aim(f"prune.{kind}", share, lambda cost: partial(cost, kind))
