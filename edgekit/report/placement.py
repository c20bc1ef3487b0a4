"""What ran where, in words: the provider that was asked for, and the operators that others ran for it."""

from __future__ import annotations

from collections.abc import Mapping

from edgekit.measurements import Timing
from edgekit.runtime.placement import in_words


def elsewhere(provider: str, placement: Mapping[str, dict[str, int]]) -> str:
    """``3 of 40 operators on CPUExecutionProvider (QuantizeLinear 2, Clip)``; empty where one provider ran them all."""
    every = sum(sum(kinds.values()) for kinds in placement.values())
    parts = [
        f"{sum(kinds.values())} of {every} operators on {name} ({in_words(kinds, most=len(kinds))})"
        for name, kinds in placement.items()
        if name != provider
    ]
    return "; ".join(parts)


def ran(timing: Timing) -> str:
    """What computed a timing, in words: the provider, what others ran for it, and what copying took."""
    took, copies = "", timing.copies
    if copies is not None:
        took = f"copies in {copies.in_ms:.3g} ms, out {copies.out_ms:.3g} ms, between {copies.compute_ms:.3g} ms"
    return "; ".join(filter(None, (timing.provider, elsewhere(timing.provider, timing.placement), took)))
