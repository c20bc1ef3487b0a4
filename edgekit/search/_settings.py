"""The settings of a rung, as the user would write them."""

from __future__ import annotations

from typing import Any

from edgekit.config.recipe import QuantizeSection


def as_toml(section: QuantizeSection, recipe: QuantizeSection) -> str:
    """The keys in which a section differs from the recipe's, as lines of TOML."""
    new, old = section.model_dump(), recipe.model_dump()
    return "\n".join(f"{key} = {_value(value)}" for key, value in new.items() if value != old[key])


def as_line(toml: str) -> str:
    """The same on one line, for messages."""
    return toml.replace("\n", ", ")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).replace("'", '"') if isinstance(value, list) else f'"{value}"'
