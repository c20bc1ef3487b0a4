"""The [sweep] section: which keys `edgekit sweep` varies, and over which values."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import PlainValidator, WithJsonSchema

from edgekit.config import plain
from edgekit.config.tune_section import flat, list_fault


def _sweep(value: Any) -> dict[str, list[Any]]:
    if not isinstance(value, dict):
        raise ValueError("give a table of keys, each with a list of values")
    found = dict(flat(value, ""))
    if not found:
        raise ValueError("there is nothing to vary: name at least one key")
    for key, listed in found.items():
        why = list_fault(listed) if isinstance(listed, list) else "give a list of values"
        if why:
            raise ValueError(f"{plain.shown(key)} = {plain.short(json.dumps(listed, default=str))}: {why}")
    return found


Sweep = Annotated[
    dict[str, list[Any]],
    PlainValidator(_sweep),
    WithJsonSchema({"type": "object", "minProperties": 1, "additionalProperties": {"type": ["array", "object"]}}),
]
"""By dotted key of the recipe: a list of values, in the order given. Used by `edgekit sweep` alone."""
