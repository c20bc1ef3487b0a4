"""TOML into checked pydantic sections, with messages that name the file, the key and the next move."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from edgekit import choices
from edgekit.errors import InputError


class Section(BaseModel):
    """Base of all sections: immutable, strict types, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


S = TypeVar("S", bound=Section)


def parse(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        InputError: missing or unreadable file, or bad syntax (with line and column).
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not valid TOML: {error}") from error


def validate(section: type[S], raw: dict[str, Any], path: Path) -> S:
    """Turn parsed TOML into a `section`.

    Raises:
        InputError: one line for each thing that is wrong.
    """
    try:
        return section.model_validate(raw)
    except ValidationError as error:
        lines = [f"{path}: {_explain(section, dict(problem))}" for problem in error.errors()]
        raise InputError("\n".join(lines)) from None


def _explain(section: type[BaseModel], problem: dict[str, Any]) -> str:
    place = [str(part) for part in problem["loc"]]
    where = ".".join(place)
    if problem["type"] == "extra_forbidden":
        allowed = _fields(section, place[:-1])
        return f"{where}: {choices.no_such(place[-1], allowed, 'key')}"
    if problem["type"] == "missing":
        return f"{where}: this key is required"
    message = problem["msg"].removeprefix("Value error, ")
    value = problem["input"]
    if message.startswith(f'"{value}"'):
        return f"{where} = {message}"
    shown = f' = "{value}"' if isinstance(value, str) else f" = {value}" if not isinstance(value, dict) else ""
    return f"{where}{shown}: {message[0].lower()}{message[1:]}"


def _fields(section: type[BaseModel], place: list[str]) -> list[str]:
    for part in place:
        annotation = section.model_fields[part].annotation
        options = get_args(annotation) or (annotation,)
        section = next(option for option in options if isinstance(option, type) and issubclass(option, BaseModel))
    return list(section.model_fields)
