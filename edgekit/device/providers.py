"""What a device file lets an engine run on (execution providers, delegates)."""

from __future__ import annotations

from collections.abc import Mapping

from edgekit.choices import no_such
from edgekit.runtime import engine_menu
from edgekit.runtime.placement import FALLBACK


def words(engine: str) -> tuple[str, ...]:
    """What `engine` takes as provider: short words, and ONNX Runtime's own names behind them."""
    known = engine_menu.engine(engine).WORDS
    return tuple(dict.fromkeys((*known, *known.values())))


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
