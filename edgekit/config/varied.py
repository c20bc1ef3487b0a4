"""Recipes that differ in the values of some keys: those of a search or a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit import choices
from edgekit.config.keys import keys
from edgekit.config.recipe import Recipe
from edgekit.errors import InputError

OUTSIDE = ("name", "description", "fit", "sweep", "tune")
"""Parts of a recipe that no run depends on."""
SEARCHES = frozenset({"fit", "sweep", "tune"})
"""Those of them that no run records."""


def check(key: str, where: Path) -> None:
    """Refuse a key that no recipe has.

    Args:
        key: dotted.
        where: what the message names as its source.

    Raises:
        InputError: with near matches.
    """
    known = [key for key, _ in keys(Recipe) if key.partition(".")[0] not in OUTSIDE]
    if any(key == each or key.startswith(f"{each}.") for each in known):
        return
    ends = [f'"{each}"' for each in known if each.endswith(f".{key}")]
    meant = f'"{key}": no such key of a recipe; did you mean {" or ".join(ends)}?' if ends else ""
    raise InputError(f"{where}: {meant or choices.no_such(key, known, 'key of a recipe')}")


def table(recipe: Recipe, settings: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """A recipe with other values, as a table of the keys alone that are not left to their defaults.

    Args:
        recipe: what is varied.
        settings: values by dotted key.
        where: what a message names as its source.

    Raises:
        InputError: a key leads through a value.
    """
    raw = recipe.model_dump(mode="json", exclude_unset=True, exclude_none=True, exclude=set(SEARCHES))
    for key, value in settings.items():
        *sections, leaf = key.split(".")
        inner = raw
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise InputError(f'{where}: "{key}": {section} is a value, not a section')
        inner[leaf] = value
    return raw
