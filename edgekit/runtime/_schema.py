"""JSON that can be trusted, and the part of JSON Schema (2020-12) that `manifest.schema.json` uses."""

from __future__ import annotations

import json
import math
import operator
import re
from typing import Any

from edgekit.runtime.errors import RuntimeFault, first_line

LARGEST = 16 * 2**20
"""Most bytes of a manifest."""
DEEPEST = 64
"""Most levels of nested objects and arrays."""

_TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
_BOUNDS = {"minimum": operator.lt, "maximum": operator.gt, "exclusiveMinimum": operator.le}


def parse(data: bytes, where: str) -> Any:
    """The value of a JSON text in UTF-8.

    Stricter than `json.loads`: no NaN or infinity, no number beyond a double, no repeated key in an object, no lone
    surrogate, at most `LARGEST` bytes and `DEEPEST` levels. A whole number is an int however it is written, as in JSON
    Schema.

    Raises:
        RuntimeFault: not such a text; the message starts with `where`.
    """
    if len(data) > LARGEST:
        raise RuntimeFault(f"{where}: {len(data)} bytes of JSON (at most {LARGEST})")
    try:
        value = json.loads(
            data.decode("utf-8"),
            parse_constant=_no_constant,
            parse_float=_float,
            parse_int=_int,
            object_pairs_hook=_object,
        )
        _inspect(value)
    except RecursionError:
        raise RuntimeFault(f"{where}: not usable JSON: too deep (at most {DEEPEST} levels)") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are of this kind
        raise RuntimeFault(f"{where}: not usable JSON: {first_line(error)}") from None
    return value


def validate(value: Any, schema: dict[str, Any], *, lenient: bool = False) -> str | None:
    """The first fault of a value, by a schema that uses the keywords of `manifest.schema.json`.

    Args:
        value: as `parse` gives it.
        schema: the whole schema; ``$ref`` points into its ``$defs``.
        lenient: ignore keys that the schema does not know.

    Returns:
        None, or the first fault: its JSON path and what is allowed there.
    """
    return _fault(value, schema, schema, "", lenient)


def shown(value: Any) -> str:
    """A value for a message: JSON on one line, cut if it is long."""
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _fault(value: Any, schema: dict[str, Any], root: dict[str, Any], path: str, lenient: bool) -> str | None:
    if "$ref" in schema:
        target = root["$defs"][schema["$ref"].rpartition("/")[2]]
        fault = _fault(value, target, root, path, lenient)
        if fault:
            return fault
    at = path or "the manifest"
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is(value, kind) for kind in kinds):
        return f"{at}: {shown(value)} is not allowed (it must be of type {' or '.join(kinds)})"
    options = [schema["const"]] if "const" in schema else schema.get("enum")
    if options is not None and not any(_same(value, option) for option in options):
        return f"{at}: {shown(value)} is not allowed (choices: {', '.join(map(json.dumps, options))})"
    if isinstance(value, dict):
        return _object_fault(value, schema, root, path, lenient)
    if isinstance(value, list):
        return _array_fault(value, schema, root, path, lenient)
    if isinstance(value, str):
        pattern = schema.get("pattern")
        # "$" ends the text in JSON Schema; in Python it also stands before a last line feed.
        if pattern and not re.search(re.sub(r"\$$", r"\\Z", pattern), value):
            return f"{at}: {shown(value)} is not allowed (pattern: {pattern})"
    elif _is(value, "number"):
        return _number_fault(value, schema, at)
    return None


def _object_fault(value: Any, schema: dict[str, Any], root: dict[str, Any], path: str, lenient: bool) -> str | None:
    known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    for key in schema.get("required", []):
        if key not in value:
            return f'{path or "the manifest"}: "{key}" is missing'
    for key, item in value.items():
        if key in known:
            rule = known[key]
        elif isinstance(others, dict):
            rule = others
        elif others or lenient:
            continue
        else:
            return f"{path or 'the manifest'}: unknown key {shown(key)} (allowed: {', '.join(known)})"
        label = key if re.fullmatch(r"\$?\w+", key, re.ASCII) else f"[{shown(key)}]"
        fault = _fault(item, rule, root, f"{path}.{label}" if path and label[0] != "[" else path + label, lenient)
        if fault:
            return fault
    return None


def _array_fault(value: Any, schema: dict[str, Any], root: dict[str, Any], path: str, lenient: bool) -> str | None:
    least, most = schema.get("minItems", 0), schema.get("maxItems", math.inf)
    if not least <= len(value) <= most:
        return f"{path or 'the manifest'}: {len(value)} items ({least} to {most} are allowed)"
    for index, item in enumerate(value if "items" in schema else ()):
        fault = _fault(item, schema["items"], root, f"{path}[{index}]", lenient)
        if fault:
            return fault
    return None


def _number_fault(value: float, schema: dict[str, Any], at: str) -> str | None:
    for keyword, beyond in _BOUNDS.items():
        if keyword in schema and beyond(value, schema[keyword]):
            return f"{at}: {shown(value)} is not allowed ({keyword}: {schema[keyword]})"
    return None


def _is(value: Any, kind: str) -> bool:
    if kind in ("number", "integer"):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and (kind == "number" or float(value).is_integer())
    return isinstance(value, _TYPES[kind])


def _same(value: Any, option: Any) -> bool:
    return isinstance(value, bool) == isinstance(option, bool) and bool(value == option)


def _inspect(value: Any) -> None:
    """Refuse what `json` lets through: great depth, and text that cannot be written out again."""
    level = [value]
    for _ in range(DEEPEST + 1):
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                item.encode("utf-8")
            elif isinstance(item, dict):
                below += item.keys()
                below += item.values()
            elif isinstance(item, list):
                below += item
        if not below:
            return
        level = below
    raise RecursionError


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a number")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large")
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _int(text: str) -> int:
    if len(text) > 100:  # int() takes time that grows with the square
        raise ValueError(f"an integer of {len(text)} digits is too long")
    return int(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {shown(next(key for key in keys if keys.count(key) > 1))} appears twice")
    return table
