"""Turns TOML into validated pydantic sections; error messages name the file, the key and the next move."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    SerializerFunctionWrapHandler,
    ValidationError,
    WithJsonSchema,
    model_serializer,
)

from edgekit import choices
from edgekit.config import plain
from edgekit.config.plain import LARGEST
from edgekit.errors import InputError

__all__ = ["LARGEST", "WEEK", "Duration", "Section", "parse", "validate"]


class Section(BaseModel):
    """Base of all sections: immutable, strict types, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    LATER: ClassVar[frozenset[str]] = frozenset()
    """Keys that came after the section. At their defaults they are left out of records, so that runs and bundles of
    recipes that do not use them stay what they were."""

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = dump(self)
        unused = {
            key
            for key in self.LATER
            if getattr(self, key) == type(self).model_fields[key].get_default(call_default_factory=True)
        }
        return {key: value for key, value in values.items() if key not in unused}


S = TypeVar("S", bound=Section)
WEEK = 7 * 24 * 3600
_UNITS = {"s": 1, "m": 60, "h": 3600}
_DURATION = r"[0-9]+(\.[0-9]+)?(s|m|h)"


def _seconds(value: Any) -> Any:
    if isinstance(value, str):
        if not re.fullmatch(_DURATION, value):
            raise ValueError(f'{plain.shown(value)} is not a duration: give a number of seconds, or "90s", "10m", "1h"')
        return float(value[:-1]) * _UNITS[value[-1]]
    return value


Duration = Annotated[
    float,
    BeforeValidator(_seconds),
    Field(ge=0, le=WEEK, allow_inf_nan=False),
    WithJsonSchema(
        {"anyOf": [{"type": "number", "minimum": 0, "maximum": WEEK}, {"type": "string", "pattern": f"^{_DURATION}$"}]}
    ),
]
"""Seconds; in TOML a number, or a string with a unit, e.g. "10m"."""

LEAST, MOST = 8, 1024
"""Pixels of a side of the input."""


def _sides(value: Any) -> int | list[int]:
    sides = value if isinstance(value, list | tuple) else [value]
    whole = all(isinstance(side, int) and not isinstance(side, bool) for side in sides)
    if not whole or (sides is not value and len(sides) != 1) or (sides is value and len(sides) != 2):
        raise ValueError("give the side of a square, e.g. 224, or [height, width], e.g. [96, 160]")
    if not all(LEAST <= side <= MOST for side in sides):
        raise ValueError(f"a side has {LEAST} to {MOST} pixels")
    return sides[0] if len(set(sides)) == 1 else list(sides)


Sides = Annotated[
    int | list[int],
    PlainValidator(_sides),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": LEAST, "maximum": MOST},
                {
                    "type": "array",
                    "minItems": 2,
                    "maxItems": 2,
                    "items": {"type": "integer", "minimum": LEAST, "maximum": MOST},
                },
            ]
        }
    ),
]
"""Side of a square, or [height, width]."""


def parse(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        InputError: missing or unreadable file, or bad syntax (with line and column).
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows' editors begin files with a byte order mark
        return tomllib.loads(text)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be read: {error}; save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except tomllib.TOMLDecodeError as error:
        *before, last = text.split("\n")
        end = f"at line {len(before) + 1}, column {len(last) + 1}"
        raise InputError(f"{path}: not valid TOML: {str(error).replace('at end of document', end)}") from error
    except RecursionError:
        raise InputError(
            f"{path}: tables or arrays are nested too deeply; no key needs more than four levels"
        ) from None
    except ValueError as error:  # an integer of thousands of digits
        raise InputError(f"{path}: not valid TOML: {str(error).partition(';')[0]}") from error


def validate(section: type[S], raw: dict[str, Any], path: Path, overridden: Collection[str] = ()) -> S:
    """Turn parsed TOML into a `section`.

    Args:
        section: what to make.
        raw: the parsed TOML.
        path: the file it came from, for messages.
        overridden: keys (``section.key``) that came from the command line.

    Raises:
        InputError: one line per problem.
    """

    def source(place: Sequence[str | int]) -> str:
        where = ".".join(map(str, place))
        return "--set" if any(_within(where, key) or _within(key, where) for key in overridden) else str(path)

    strange = plain.fault(raw)
    if strange:
        shown = f" = {strange.value}" if strange.value else ""
        head = f"{_title(strange.place)}{shown}: " if strange.place else ""
        raise InputError(f"{source(strange.place)}: {head}{strange.why}")
    try:
        return section.model_validate(raw)
    except ValidationError as error:
        lines = [f"{source(problem['loc'])}: {_explain(section, dict(problem))}" for problem in error.errors()]
        raise InputError("\n".join(lines)) from None


def _title(place: Sequence[str | int]) -> str:
    return re.sub(r"\.(\d+)", r"[\1]", ".".join(plain.short(str(part)) for part in place))


def _within(key: str, section: str) -> bool:
    return f"{key}.".startswith(f"{section}.")


def _explain(section: type[BaseModel], problem: dict[str, Any]) -> str:
    place = [str(part) for part in problem["loc"]]
    where = _title(place)
    if problem["type"] == "extra_forbidden":
        allowed = _fields(section, place[:-1])
        return f"{where}: {choices.no_such(place[-1], allowed, 'key')}"
    if problem["type"] == "missing":
        return f"{where}: this key is required"
    message = problem["msg"].removeprefix("Value error, ").replace(" after validation", "")
    value = problem["input"]
    if problem["type"] == "literal_error" and isinstance(value, str):
        message = choices.no_such(value, re.findall(r"'([^']*)'", problem["ctx"]["expected"]))
    if problem["type"] == "model_type":
        message = f"Expected a section with the keys {', '.join(_fields(section, place))}"
    if message.startswith(f'"{value}"'):
        return f"{where} = {message}"
    shown = "" if isinstance(value, dict) else f" = {plain.value(value)}"
    head = f"{where}{shown}: " if where else ""  # else the message is about the whole file
    return f"{head}{message[0].lower()}{message[1:]}"


def _fields(section: type[BaseModel], place: list[str]) -> list[str]:
    for part in place:
        annotation = section.model_fields[part].annotation
        options = get_args(annotation) or (annotation,)
        section = next(option for option in options if isinstance(option, type) and issubclass(option, BaseModel))
    return list(section.model_fields)
