"""Dataclasses of `edgekit.types` as JSON files: written atomically, checked when read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from edgekit.disk.atomic import write_text
from edgekit.errors import InputError

T = TypeVar("T")


def save(path: Path, value: Any) -> None:
    """Write a dataclass, or a list of them."""
    write_text(path, TypeAdapter(Any).dump_json(value, indent=1).decode())


def load(path: Path, kind: type[T]) -> T:
    """Read back what `save` wrote, e.g. ``load(path, list[Accuracy])``.

    Raises:
        InputError: the file is missing, or not as edgekit wrote it.
    """
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise InputError(f"{path}: cannot be read as edgekit wrote it: {str(error).splitlines()[0]}") from error
