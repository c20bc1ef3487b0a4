"""The execution providers and delegates that a device file may choose for an engine."""

from __future__ import annotations

from collections.abc import Mapping

from edgekit.choices import no_such
from edgekit.runtime import engine_menu
from edgekit.runtime.placement import FALLBACK


def words(engine: str) -> tuple[str, ...]:
    """What `engine` accepts as provider: short words, then ONNX Runtime's own names."""
    known = engine_menu.engine(engine).WORDS
    return tuple(dict.fromkeys((*known, *known.values())))


def checked(providers: Mapping[str, str], engines: list[str]) -> None:
    """Check that each engine is one of `engines` and knows its provider.

    Raises:
        ValueError: it is not or does not; the message lists the choices, the caller adds where.
    """
    for engine, word in providers.items():
        if engine not in engines:
            raise ValueError(f"providers: {no_such(engine, engines, 'engine of this device')}")
        if word not in words(engine):
            short = [each for each in words(engine) if not each.endswith("ExecutionProvider")]
            raise ValueError(f"providers: {engine}: {no_such(word, short, 'provider')}")


def asked(word: str | None, allow_fallback: bool) -> str | None:
    """The provider to pass to the engine's `load`."""
    return f"{word}{FALLBACK}" if word and allow_fallback else word
