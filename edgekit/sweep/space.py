"""The combinations of a sweep: every value of each key with every value of the others."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from edgekit.config import plain, recipe_file, varied
from edgekit.config.keys import keys, kinds
from edgekit.config.recipe import Recipe
from edgekit.config.sweep_section import Sweep
from edgekit.config.toml import Section, validate
from edgekit.errors import InputError

WHERE = Path("sweep")
"""What messages about values name as their source."""
NONE = "none"
"""Leaves a key out that has no value of its own unless one is given."""
MOST = 10_000
"""Combinations of a sweep."""
FORM = "--vary %s: expected section.key=value,value, e.g. --vary data.input=128,160"


@dataclass(frozen=True)
class Combination:
    """One recipe of a sweep."""

    number: int
    """From 1 on, in the order of the table: the last key varies fastest."""
    settings: dict[str, Any]
    """Values by key of the recipe."""
    recipe: Recipe | None
    """None if there is nothing to run."""
    why: str = ""
    """Why there is nothing to run: the recipe cannot have these values, or an earlier combination is the same."""

    @property
    def folder(self) -> str:
        """Name of its run directory, which depends on nothing but its settings."""
        words = "-".join(re.sub(r"[^A-Za-z0-9._]+", "_", shown(value)) for value in self.settings.values())
        digest = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()
        return f"{words.strip('._-')[:60]}-{digest[:8]}"

    def __str__(self) -> str:
        return ", ".join(f"{key} = {shown(value)}" for key, value in self.settings.items())


def parsed(words: Sequence[str]) -> dict[str, list[Any]]:
    """What ``--vary KEY=A,B`` asks for, by key.

    Each value is TOML, or else a plain word; commas inside brackets belong to a value.

    Raises:
        InputError: there is no key or no value, or a key comes twice.
    """
    found: dict[str, list[Any]] = {}
    for word in words:
        key, _, text = (part.strip() for part in word.partition("="))
        if not key or not text:
            raise InputError(FORM % plain.shown(word))
        if key in found:
            raise InputError(f"--vary {plain.shown(key)}: comes twice; give all its values at once")
        listed = recipe_file.value(f"[{text}]")
        if not isinstance(listed, list):  # not TOML as a whole: word by word
            listed = [recipe_file.value(each) for each in re.split(r",(?![^\[]*\])", text)]
        found[key] = listed
    return found


def first(words: Sequence[str]) -> tuple[str, ...]:
    """A value for each key of ``--vary``, as ``--set`` takes it."""
    values = {key: next((value for value in listed if value != NONE), NONE) for key, listed in parsed(words).items()}
    return tuple(f"{key}={json.dumps(value)}" for key, value in values.items())


def asked(section: Mapping[str, list[Any]] | None, vary: Sequence[str]) -> dict[str, list[Any]]:
    """The values by key of a recipe's [sweep] section, in place of which ``--vary`` may give others, and more keys.

    Raises:
        InputError: a list is empty or has a value twice, or nothing is varied.
    """
    merged = {**(section or {}), **parsed(vary)}
    if not merged:
        raise InputError("sweep: names no key to vary: give --vary KEY=VALUE,VALUE, or a [sweep] section in the recipe")
    return validate(_Asked, {"sweep": merged}, Path("--vary") if vary else WHERE).sweep


class _Asked(Section):
    sweep: Sweep


def combinations(recipe: Recipe, listed: Mapping[str, Sequence[Any]]) -> tuple[Combination, ...]:
    """All combinations, those that cannot run among them.

    Args:
        recipe: what is varied.
        listed: values by key.

    Raises:
        InputError: no recipe has such a key, there are too many combinations, or none can run.
    """
    for key in listed:
        varied.check(key, WHERE)
    count = math.prod(map(len, listed.values()))
    if count > MOST:
        raise InputError(f"sweep: {count:,} combinations; at most {MOST:,} are possible: name fewer values")
    found: list[Combination] = []
    first: dict[str, int] = {}
    for number, values in enumerate(itertools.product(*listed.values()), 1):
        settings = dict(zip(listed, values, strict=True))
        try:
            made = _made(recipe, settings)
        except InputError as error:
            found.append(Combination(number, settings, None, str(error).splitlines()[0].removeprefix(f"{WHERE}: ")))
            continue
        twin = first.setdefault(made.model_dump_json(), number)
        same = twin != number
        found.append(Combination(number, settings, None if same else made, f"the same as {twin}" if same else ""))
    if not any(one.recipe for one in found):
        raise InputError(f"sweep: no combination can run; the first: {found[0].why}")
    return tuple(found)


def shown(value: Any) -> str:
    """A value as it is written in a recipe, words without quotes."""
    return value if isinstance(value, str) else json.dumps(value)


def _made(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """The recipe of one combination; a section that is nothing without a key that is left out goes with it."""
    gone = [key for key, value in settings.items() if value == NONE and _is_optional(key)]
    raw = varied.table(recipe, {key: value for key, value in settings.items() if key not in gone}, WHERE)
    for key in gone:
        section, _, leaf = key.partition(".")
        table = raw.get(section)
        if isinstance(table, dict) and "." not in leaf:
            table.pop(leaf, None)
            if not _stands(section, table):
                del raw[section]
    return validate(Recipe, raw, WHERE)


def _is_optional(key: str) -> bool:
    """Whether a key has no value unless one is given."""
    field = dict(keys(Recipe)).get(key)
    return field is not None and field.default is None


def _stands(section: str, table: dict[str, Any]) -> bool:
    """Whether a section may have these keys alone."""
    kind = next(each for each in kinds(Recipe.model_fields[section].annotation) if each is not type(None))
    try:
        TypeAdapter(kind).validate_python(table)
    except ValidationError:
        return False
    return True
