"""What ran where, in words: the requested provider, and the operators that ran on other providers instead."""

from __future__ import annotations

from collections.abc import Mapping

from edgekit.measurements import Timing
from edgekit.runtime.placement import in_words


def elsewhere(provider: str, placement: Mapping[str, dict[str, int]], most: int | None = None) -> str:
    """``3 of 40 operators on CPUExecutionProvider (QuantizeLinear 2, Clip)``; empty if `provider` ran them all.

    Only the first `most` types are named, if it is given.
    """
    every = sum(sum(kinds.values()) for kinds in placement.values())
    parts = [
        f"{sum(kinds.values())} of {every} operators on {name} ({in_words(kinds, most=most or len(kinds))})"
        for name, kinds in placement.items()
        if name != provider
    ]
    return "; ".join(parts)


def ran(timing: Timing, most: int | None = None) -> str:
    """What ran a timing's inferences, in words: the provider, operators on other providers, and copying times.

    Of the operators on other providers only the first `most` types are named, if it is given.
    """
    took, copies = "", timing.copies
    if copies is not None:
        took = f"copy in {copies.in_ms:.3g} ms, compute {copies.compute_ms:.3g} ms, copy out {copies.out_ms:.3g} ms"
    return "; ".join(filter(None, (timing.provider, elsewhere(timing.provider, timing.placement, most), took)))
