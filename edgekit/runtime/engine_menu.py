"""Engines by name. Standard library only."""

from __future__ import annotations

import importlib
import pkgutil
from importlib.util import find_spec
from typing import TYPE_CHECKING, cast

from edgekit.runtime.errors import RuntimeFault

if TYPE_CHECKING:
    from edgekit.runtime.port import Bound, Engine


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


def installed(engine: Engine) -> bool:
    """Whether the engine's package is installed; it is not imported."""
    try:
        return find_spec(engine.MODULE) is not None
    except (ImportError, ValueError):
        return False


def bound(name: str) -> Bound | None:
    """`Engine.BOUND`; None also for what runs files but is no engine of the menu (torch, benchmark_model)."""
    return engine(name).BOUND if name in engines() else None
