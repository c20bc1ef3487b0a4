"""The paths of a recipe, for a copy of it in another folder. Standard library only."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

PATHS = (
    *(("model", key) for key in ("weights", "name")),
    *(("data", key) for key in ("path", "labels", "exclude", "relabel", "extra")),
    ("distill", "teacher"),
    ("prune", "plan"),
)
"""Keys that may hold a path."""


def move(raw: dict[str, Any], base: Path, folder: Path) -> None:
    """Rewrite the paths of a recipe in place, so that they start from another folder.

    Args:
        raw: the recipe as a table.
        base: folder that its relative paths start from.
        folder: that they are to start from.
    """
    for section, key in PATHS:
        value = raw.get(section, {}).get(key)
        if isinstance(value, str) and _is_path(section, key, value):
            raw[section][key] = _moved(value, base, folder)


def _is_path(section: str, key: str, value: str) -> bool:
    if key == "name":
        return ".py:" in value
    if key == "teacher":
        return "/" in value or value.endswith((".onnx", ".tflite"))
    return value not in ("pretrained", "none") or section == "data"


def _moved(value: str, base: Path, folder: Path) -> str:
    """A path of a recipe, as seen from another folder; environment variables stay."""

    def seen(path: str) -> str:
        return path if Path(path).is_absolute() or path.startswith("~") else os.path.relpath(base / path, folder)

    head = re.match(r"\$\{\w+(:-(?P<default>[^}]*))?\}", value)
    if head is None:
        return seen(value)
    default = head["default"]
    return value if default is None else value.replace(f":-{default}}}", f":-{seen(default)}}}", 1)
