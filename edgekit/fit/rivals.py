"""What else the user could have: a lower resolution, or a smaller network, trained straight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgekit.config.fit_section import FitSection
from edgekit.config.toml import LEAST
from edgekit.fit.networks import Whole
from edgekit.fit.records import Candidate, Net
from edgekit.fit.widths import AIMS
from edgekit.latency.model import LatencyModel
from edgekit.prune.cost import Cost
from edgekit.prune.groups import ChannelGraph
from edgekit.types import Size

STEP = 16
"""Sides that are tried are multiples of it, as networks halve them four or five times."""
SMALLEST = 0.4
"""Share of the recipe's side below which a resolution is not tried unless the user names it."""


def nets(whole: Whole, section: FitSection, models: Mapping[str, LatencyModel]) -> list[Net]:
    """The networks to compare pruned ones with, besides the whole one itself."""
    own = whole.net
    sides: Sequence[int | tuple[int, int]]
    if section.resolutions is not None:
        sides = [side for side in section.resolutions if side != own.side]
    else:
        side = _fitting(whole, section.max_ms, models)
        sides = [side] if side is not None else []
    names = [own.name, *section.models]
    return [Net(name, side) for name in names for side in ((own.side, *sides) if name != own.name else sides)]


def _fitting(whole: Whole, max_ms: float, models: Mapping[str, LatencyModel]) -> int | None:
    """The largest lower side at which the whole network is predicted to be within the budget."""
    side = whole.net.side
    if not isinstance(side, int):
        return None
    for lower in range((side - 1) // STEP * STEP, max(LEAST, int(SMALLEST * side)) - 1, -STEP):
        if at_side(whole, lower, models) <= AIMS[0] * max_ms:
            return lower
    return None


def at_side(whole: Whole, side: int, models: Mapping[str, LatencyModel]) -> float:
    """Milliseconds of the whole network at another resolution, on the slowest device, predicted."""
    channels, *_ = whole.spec.shape
    shapes = cost(whole, (channels, side, side)).shapes({})
    return max(model.predict(shapes).ms for model in models.values())


def cost(whole: Whole, size: Size) -> Cost:
    """What the network costs for images of another size."""
    return Cost(whole.module, ChannelGraph(whole.module, size).groups(), size)


def out_of_reach(narrowest: Candidate, max_ms: float, own: Net) -> str:
    """Why a budget cannot be met, and what could be."""
    worst = max(narrowest.measured, key=lambda row: row.low)
    text = (
        f"fit: {max_ms:g} ms is out of reach on {worst.device}: even the narrowest {own.name} at this resolution takes "
        f"{worst.ms:.3g} ms ({worst.low:.3g} to {worst.high:.3g}; {worst.format} in {worst.engine})"
    )
    moves = [f"allow at least --max-ms {1.1 * worst.high:.2g}"]
    if isinstance(own.side, int):
        side = int(own.side * (max_ms / worst.high) ** 0.5) // STEP * STEP
        if side >= 2 * STEP:
            moves.append(f"lower data.input to about {side} (time follows the pixels)")
    moves.append("choose a smaller network in model.name")
    return f"{text}; {', or '.join(moves)}"
