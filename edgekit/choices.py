"""A folder is a menu: its public modules are the choices, and their file names are the words used in recipes."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable
from types import ModuleType

from edgekit.errors import InputError


def names(folder: str) -> tuple[str, ...]:
    """Choices in a package, e.g. ``names("edgekit.report.formats")``, without importing them."""
    package = importlib.import_module(folder)
    modules = (module.name for module in pkgutil.iter_modules(package.__path__))
    return tuple(sorted(name for name in modules if not name.startswith("_")))


def pick(folder: str, name: str, where: str) -> ModuleType:
    """Import the module that a word in a recipe stands for.

    Args:
        folder: dotted name of the menu.
        name: the user's word.
        where: the key that holds the word, for the message (``"quantize.range"``).

    Raises:
        InputError: no such choice; the message lists similar ones.
    """
    allowed = names(folder)
    if name not in allowed:
        raise InputError(f"{where}: {no_such(name, allowed)}")
    return importlib.import_module(f"{folder}.{name}")


def no_such(word: str, allowed: Iterable[str], noun: str = "choice") -> str:
    """The end of a message: the unknown word, similar known ones, and all of them if there are few."""
    allowed = sorted(allowed)
    near = difflib.get_close_matches(word, allowed, n=3, cutoff=0.6)
    text = f'"{word if len(word) <= 80 else f"{word[:80]}..."}": no such {noun}'
    if near:
        text += "; did you mean " + " or ".join(f'"{guess}"' for guess in near) + "?"
    if len(allowed) <= 20:
        text += f" (choices: {', '.join(allowed)})"
    return text
