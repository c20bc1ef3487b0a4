"""The [tune] section: what `edgekit tune` varies, and what it looks for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema

from edgekit.config import plain
from edgekit.config.menu import menu
from edgekit.config.toml import LARGEST, WEEK, Duration, Section

RANGE = ("low", "high", "step", "log")
"""Keys of a range; any other table holds keys of the recipe."""
MOST = 100_000
FORM = "give a list of values, or a range: { low = 1e-4, high = 1e-2, log = true } or { low = 3, high = 20, step = 1 }"


def _space(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("give a table of keys, each with a list of values or a range")
    found = dict(sorted(flat(value, "")))
    if not found:
        raise ValueError("there is nothing to vary: name at least one key")
    for key, choice in found.items():
        if why := _fault(choice):
            raise ValueError(f"{plain.shown(key)} = {plain.short(json.dumps(choice, default=str))}: {why}")
    return found


def flat(table: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Dotted keys, whether they were written in quotes or not."""
    for key, value in table.items():
        if isinstance(value, dict) and not set(value) & set(RANGE):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _fault(choice: Any) -> str:
    """What is wrong with the values of a key; empty if nothing."""
    if isinstance(choice, list):
        return list_fault(choice)
    if not isinstance(choice, dict):
        return FORM
    if strange := sorted(set(choice) - set(RANGE)):
        return f"a range has no {plain.shown(strange[0])}: {FORM}"
    return _impossible(choice)


def list_fault(values: list[Any]) -> str:
    """What is wrong with a list of values; empty if nothing."""
    if not values:
        return "the list is empty"
    labels = [json.dumps(value, sort_keys=True, default=str) for value in values]
    double = next((label for label in labels if labels.count(label) > 1), None)
    return f"{double} is listed twice" if double else ""


def _impossible(choice: dict[str, Any]) -> str:
    low, high, step, log = (choice.get(name) for name in RANGE)
    if low is None or high is None:
        return f"a range needs low and high: {FORM}"
    if any(
        isinstance(n, bool) or not isinstance(n, int | float) for n in (low, high, *([] if step is None else [step]))
    ):
        return "low, high and step are numbers"
    if log is not None and not isinstance(log, bool):
        return "log is true or false"
    if low >= high:
        return f"low = {low:g} must be less than high = {high:g}"
    if step is not None and not 0 < step <= high - low:
        return f"step = {step:g} must be more than 0 and at most high - low = {high - low:g}"
    if log and step is not None:
        return "give log or step, not both"
    if log and low <= 0:
        return f"log needs low > 0, not {low:g}"
    return ""


Space = Annotated[
    dict[str, Any],
    PlainValidator(_space),
    WithJsonSchema({"type": "object", "minProperties": 1, "additionalProperties": {"type": ["array", "object"]}}),
]
"""By dotted key of the recipe: a list of values, or a table with low, high and perhaps step or log."""


class TuneSection(Section):
    """A search for the best values of any keys of the recipe. Used by `edgekit tune` alone."""

    space: Space = Field(description="what is varied: for each key of the recipe a list of values, or a range")
    trials: int | None = Field(None, ge=1, le=MOST, description="how many runs (default: 50; of a grid: all)")
    sampler: Annotated[str, AfterValidator(menu("edgekit.tune.samplers"))] = Field(
        "tpe", description="a module of edgekit/tune/samplers"
    )
    pruner: Annotated[str, AfterValidator(menu("edgekit.tune.pruners"))] | None = Field(
        None,
        description="a module of edgekit/tune/pruners: which trials are stopped early, by their validation accuracy "
        "after each epoch (default: median if accuracy is the only objective, else none)",
    )
    objective: list[Literal["accuracy", "latency", "size"]] = Field(
        ["accuracy"], min_length=1, max_length=3, description="what to optimise; several give a Pareto front"
    )
    storage: str | None = Field(
        None,
        description="where trials are recorded: a journal file, or the URL of a database for workers on several "
        "machines, e.g. postgresql://user@host/name (default: a journal file in the folder of the search)",
    )
    study: str | None = Field(
        None, min_length=1, max_length=200, description="name in the storage (default: as the recipe)"
    )
    seed: int = Field(0, ge=0, le=LARGEST)
    grace: Duration = Field(
        60,
        ge=3,
        le=WEEK,
        description="how long a worker may give no sign of life to a database before its trial goes to another",
    )
    time_budget: Duration | None = Field(None, description='how long a worker may begin new trials, e.g. "2h"')
