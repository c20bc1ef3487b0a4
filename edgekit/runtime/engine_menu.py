"""Engines by name. Standard library only."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, cast

from edgekit.runtime.errors import RuntimeFault

if TYPE_CHECKING:
    from edgekit.runtime.port import Engine


def engines() -> tuple[str, ...]:
    """Names of all engines edgekit knows, installed or not."""
    package = importlib.import_module("edgekit.runtime.engines")
    return tuple(sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")))


def engine(name: str) -> Engine:
    """The module of ``edgekit/runtime/engines`` with that name; the engine itself is not imported yet.

    Raises:
        RuntimeFault: there is no such engine.
    """
    if name not in engines():
        raise RuntimeFault(f'"{name}": no such engine (choices: {", ".join(engines())})')
    return cast("Engine", importlib.import_module(f"edgekit.runtime.engines.{name}"))
