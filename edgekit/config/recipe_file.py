"""Reading recipes: from a TOML file, from the record of a run, and from the command line."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from edgekit.config import plain
from edgekit.config.recipe import ProfileSection, Recipe
from edgekit.config.toml import Section, parse, validate
from edgekit.errors import InputError


class _Profiled(Section):
    """The part of a recipe that profiling a bundle needs."""

    profile: ProfileSection = Field(default_factory=ProfileSection)


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe file.

    Args:
        path: the TOML file. Relative paths in it start from its folder.
        overrides: ``section.key=value`` strings; the value is TOML, or else a plain string; without one the key goes
            back to its default.

    Raises:
        InputError: unreadable file, bad TOML (line and column), unknown key, wrong type or value.
    """
    return validate(Recipe, _settle(parse(path), path, overrides), path, _keys(overrides))


def profile_section(overrides: Sequence[str], allowed: Sequence[str], why: str) -> ProfileSection:
    """The [profile] section when there is no recipe: defaults and what the command line sets.

    Args:
        overrides: as in `load`.
        allowed: the keys that may be set.
        why: the reason that no others may, for the message.

    Raises:
        InputError: another key, or a wrong type or value.
    """
    raw: dict[str, Any] = {}
    keys = [f"profile.{key}" for key in allowed]
    for override in overrides:
        if (key := override.partition("=")[0].strip()) not in keys:
            raise InputError(f"--set {plain.shown(key)}: {why}: only {', '.join(keys)} can be set")
        _set(raw, override)
    return validate(_Profiled, raw, Path("--set"), keys).profile


def resume(path: Path, overrides: Sequence[str] = ()) -> tuple[Recipe, Path]:
    """Read the ``recipe.json`` of a run directory: the recipe as it ran, and the folder that its paths are relative to.

    Raises:
        InputError: as `load`.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8-sig"))
        raw, base = dict(record["recipe"]), Path(record["base"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: not as edgekit wrote it: {error}; run the recipe again") from error
    return validate(Recipe, _settle(raw, path, overrides), path, _keys(overrides)), base


def _settle(raw: dict[str, Any], path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    for override in overrides:
        _set(raw, override)
    raw.setdefault("name", path.stem)
    return raw


def _keys(overrides: Sequence[str]) -> list[str]:
    return [override.partition("=")[0].strip() for override in overrides]


def _set(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *sections, leaf = key.strip().split(".")
    if not equals or not leaf:
        raise InputError(f"--set {plain.shown(override)}: expected section.key=value, e.g. --set train.epochs=2")
    table = raw
    for section in sections:
        if table.get(section) is None:
            table[section] = {}
        table = table[section]
        if not isinstance(table, dict):
            raise InputError(f"--set {plain.shown(override)}: {plain.shown(section)} is a value, not a section")
    if text.strip():
        table[leaf] = value(text)
    else:
        table.pop(leaf, None)


def value(text: str) -> Any:
    """What the right side of a --set stands for: TOML, or else the words as they are.

    Raises:
        InputError: nested too deeply.
    """
    try:
        table = tomllib.loads(f"value = {text}")
    except RecursionError:
        raise InputError(f"--set {plain.shown(text)}: nested too deeply") from None
    except ValueError:
        return text.strip()
    return table["value"] if len(table) == 1 else text.strip()
