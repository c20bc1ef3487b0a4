"""What else the user could have: a lower resolution, or a smaller network, trained straight."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.config.fit_section import FitSection
from edgekit.config.toml import LEAST
from edgekit.fit.networks import Whole
from edgekit.fit.records import Candidate, Net
from edgekit.fit.widths import AIMS, Budget
from edgekit.prune.cost import Cost

STEP = 16
"""Sides that are tried are multiples of it, as networks halve them four or five times."""
SMALLEST = 0.4
"""Share of the recipe's side below which a resolution is not tried unless the user names it."""


def nets(whole: Whole, budget: Budget) -> list[Net]:
    """The networks to compare pruned ones with, besides the whole one itself."""
    own, section = whole.net, budget.section
    sides: Sequence[int | tuple[int, int]]
    if section.resolutions is not None:
        sides = [side for side in section.resolutions if side != own.side]
    else:
        side = _fitting(whole, budget)
        sides = [side] if side is not None else []
    names = [own.name, *section.models]
    return [Net(name, side) for name in names for side in ((own.side, *sides) if name != own.name else sides)]


def _fitting(whole: Whole, budget: Budget) -> int | None:
    """The largest lower side at which the whole network is predicted to be within the budget."""
    side = whole.net.side
    if not isinstance(side, int):
        return None
    for lower in range((side - 1) // STEP * STEP, max(LEAST, int(SMALLEST * side)) - 1, -STEP):
        size = (whole.spec.shape[0], lower, lower)
        if budget.of(Cost(whole.module, (), size))({}) <= AIMS[0]:
            return lower
    return None


def out_of_reach(narrowest: Candidate, section: FitSection, own: Net) -> str:
    """Why the limits cannot be met, and what could be; empty if they may be."""
    for key, attribute in (("max_mb", "file_mb"), ("max_rss", "rss_mb")):
        limit, least = getattr(section, key), max(getattr(row, attribute) for row in narrowest.measured)
        if limit is not None and least > limit:
            option = key.replace("_", "-")
            return (
                f"fit: --{option} {limit:g} is out of reach: even the narrowest {own.name} takes {least:.3g} MB; allow "
                f"at least --{option} {1.1 * least:.3g}, or choose a smaller network in model.name"
            )
    max_ms, worst = section.max_ms, max(narrowest.measured, key=lambda row: row.low)
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
