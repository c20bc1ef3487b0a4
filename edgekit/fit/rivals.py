"""What else the user could have: a lower resolution, pruned if it must be, or a smaller network, trained straight."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.config.fit_section import FitSection
from edgekit.config.toml import LEAST
from edgekit.fit.networks import Whole
from edgekit.fit.records import Candidate, Net
from edgekit.fit.widths import AIMS, Budget
from edgekit.prune.cost import Cost
from edgekit.weights import published

STEP = 16
"""Sides that are tried are multiples of it, as networks halve them four or five times."""
SMALLEST = 0.4
"""Share of the recipe's side below which a resolution is not tried unless the user names it."""


def nets(whole: Whole, budget: Budget, pretrained: bool = False) -> list[Net]:
    """The networks to compare those pruned at the recipe's resolution with, besides the whole one itself.

    Args:
        whole: the recipe's network.
        budget: the limits.
        pretrained: whether it starts from published weights, as narrower versions of it could, too.
    """
    own, section = whole.net, budget.section
    sides: Sequence[int | tuple[int, int]]
    if section.resolutions is not None:
        sides = [side for side in section.resolutions if side != own.side]
    else:
        sides = _sides(whole, budget)
    named = [Net(name, side) for name in section.models or () for side in (own.side, *sides) if name != own.name]
    if section.models is None and pretrained:
        named = [Net(name, own.side) for name in published.narrower(own.name)]
    return [*(Net(own.name, side) for side in sides), *named]


def _sides(whole: Whole, budget: Budget) -> list[int]:
    """Lower sides: the largest that needs no pruning, as predicted, the next one, and one half-way to the recipe's."""
    side = whole.net.side
    if not isinstance(side, int):
        return []
    least = -(-max(LEAST, int(SMALLEST * side)) // STEP) * STEP
    enough, more = list[int](), list[int]()
    for lower in range(least, side, STEP):
        size = (whole.spec.shape[0], lower, lower)
        (enough if budget.of(Cost(whole.module, (), size))({}) <= AIMS[0] else more).append(lower)
    return list(dict.fromkeys((*enough[-1:], *more[:1], *more[len(more) // 2 :][:1])))


def out_of_reach(narrow: Sequence[Candidate], section: FitSection, own: Net) -> str:
    """Why the limits cannot be met, and what could be; empty if they may be.

    Args:
        narrow: the narrowest networks, the fastest first; another may be smaller.
        section: the limits.
        own: the recipe's network.
    """
    for key, attribute in (("max_mb", "file_mb"), ("max_rss", "rss_mb")):
        limit = getattr(section, key)
        least = min(max(getattr(row, attribute) for row in one.measured) for one in narrow)
        if limit is not None and least > limit:
            option = key.replace("_", "-")
            return (
                f"fit: --{option} {limit:g} is out of reach: even the narrowest {own.name} takes {least:.3g} MB; allow "
                f"at least --{option} {1.1 * least:.3g}, or choose a smaller network in model.name"
            )
    max_ms, worst = section.max_ms, max(narrow[0].measured, key=lambda row: row.low)
    if worst.low <= max_ms:
        return ""
    text = (
        f"fit: {max_ms:g} ms is out of reach on {worst.device}: even the narrowest {own.name} at this resolution takes "
        f"{worst.ms:.3g} ms ({worst.low:.3g} to {worst.high:.3g}; {worst.format} in {worst.engine})"
    )
    moves = [f"allow at least --max-ms {1.1 * worst.high:.3g}"]
    if isinstance(own.side, int):
        side = int(own.side * (max_ms / worst.high) ** 0.5) // STEP * STEP
        if side >= 2 * STEP:
            moves.append(f"lower data.input to about {side} (time follows the pixels)")
    moves.append("choose a smaller network in model.name")
    return f"{text}; {', or '.join(moves)}"
