"""What a device file lets an engine run on (execution providers, delegates), and how a report says what came of it."""

from __future__ import annotations

from collections.abc import Mapping

from edgekit.choices import no_such
from edgekit.measurements import Timing
from edgekit.runtime import _menu
from edgekit.runtime._placed import FALLBACK, in_words


def words(engine: str) -> tuple[str, ...]:
    """What `engine` takes as provider: short words, and ONNX Runtime's own names behind them."""
    module = _menu.engine(engine)
    known = getattr(module, "WORDS", ("cpu",))
    return (*known, *known.values()) if isinstance(known, dict) else tuple(known)


def checked(providers: Mapping[str, str], engines: list[str]) -> None:
    """See to it that each engine is one of `engines` and has such a provider.

    Raises:
        ValueError: not so; half a message with the choices.
    """
    for engine, word in providers.items():
        if engine not in engines:
            raise ValueError(f"providers: {no_such(engine, engines, 'engine of this device')}")
        if word not in words(engine):
            short = [each for each in words(engine) if not each.endswith("ExecutionProvider")]
            raise ValueError(f"providers: {engine}: {no_such(word, short, 'provider')}")


def asked(word: str | None, allow_fallback: bool) -> str | None:
    """What the engine's `load` is given."""
    return f"{word}{FALLBACK}" if word and allow_fallback else word


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
