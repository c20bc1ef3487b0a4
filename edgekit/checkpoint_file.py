"""``checkpoint.json``: what lies beside the weights of a float network. Light to import."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from edgekit.disk.atomic import write_bytes
from edgekit.errors import InputError
from edgekit.types import Checkpoint

NAME = "checkpoint.json"


@cache
def _json() -> TypeAdapter[Checkpoint]:
    return TypeAdapter(Checkpoint)


def save(checkpoint: Checkpoint, folder: Path) -> None:
    """Write ``checkpoint.json`` into `folder`."""
    write_bytes(folder / NAME, _json().dump_json(checkpoint, indent=2) + b"\n")


def load(folder: Path) -> Checkpoint:
    """Read ``checkpoint.json`` from `folder`.

    Raises:
        InputError: it is missing, or of another version.
    """
    try:
        return _json().validate_json((folder / NAME).read_bytes())
    except OSError as error:
        raise InputError(f"{folder}: no checkpoint here: {error.strerror} ({NAME})") from error
    except ValidationError as error:
        raise InputError(f"{folder / NAME}: not a checkpoint of this version: {error.errors()[0]}") from error
