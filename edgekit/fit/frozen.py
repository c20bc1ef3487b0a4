"""The outcome as a recipe that is replayed without a device: backbone, resolution, and which channels stay."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import tomli_w

from edgekit.config.recipe import Recipe
from edgekit.disk import json_file
from edgekit.disk.atomic import write_text
from edgekit.fit.records import Candidate

RECIPE, PLAN = "fit.toml", "plan.json"
PATHS = (("model", "weights"), ("model", "name"), ("data", "path"), ("data", "labels"))
"""Keys that may hold a path."""


def write(folder: Path, recipe: Recipe, base: Path, chosen: Candidate, asked: dict[str, Any], said: str) -> Path:
    """Write ``fit.toml``, and ``plan.json`` beside it.

    Args:
        folder: where to write.
        recipe: of the chosen network.
        base: folder that its relative paths start from.
        chosen: the network.
        asked: the [fit] section.
        said: the outcome in words, for the head of the file.
    """
    raw = recipe.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    raw["fit"] = asked
    for section, key in PATHS:
        value = raw.get(section, {}).get(key)
        if isinstance(value, str) and _is_path(section, key, value):
            raw[section][key] = _moved(value, base, folder)
    if chosen.plan is not None:
        json_file.save(folder / PLAN, chosen.plan)
        raw["prune"]["plan"] = PLAN
    head = "".join(f"# {line}\n" for line in said.splitlines())
    path = folder / RECIPE
    write_text(path, f"{head}\n{tomli_w.dumps(raw)}")
    return path


def _is_path(section: str, key: str, value: str) -> bool:
    if key == "name":
        return ".py:" in value
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
