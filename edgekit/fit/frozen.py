"""The outcome as a recipe that is replayed without a device: backbone, resolution, and which channels stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tomli_w

from edgekit.config import paths
from edgekit.config.recipe import Recipe
from edgekit.disk import json_file
from edgekit.disk.atomic import write_text
from edgekit.fit.records import Candidate

RECIPE, PLAN = "fit.toml", "plan.json"


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
    paths.move(raw, base, folder)
    if chosen.plan is not None:
        json_file.save(folder / PLAN, chosen.plan)
        raw["prune"]["plan"] = PLAN
    head = "".join(f"# {line}\n" for line in said.splitlines())
    path = folder / RECIPE
    write_text(path, f"{head}\n{tomli_w.dumps(raw)}")
    return path
