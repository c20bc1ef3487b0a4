"""All keys of a section, as ``--set`` and a search space name them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo


def keys(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """The dotted keys of a section and of those inside it, each with its field."""
    for name, field in section.model_fields.items():
        inner = [kind for kind in kinds(field.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if inner:
            yield from keys(inner[0], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def kinds(annotation: Any) -> tuple[Any, ...]:
    """A type, or the members of a union."""
    return get_args(annotation) if get_origin(annotation) not in (None, Literal, list, dict) else (annotation,)
