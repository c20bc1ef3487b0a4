"""Trials as recipes that `edgekit run` repeats."""

from __future__ import annotations

import shutil
from pathlib import Path

import tomli_w

from edgekit.config import paths
from edgekit.disk.atomic import write_text
from edgekit.tune import findings
from edgekit.tune.records import Result, Trial
from edgekit.tune.space import Space

BEST, FRONT = "best.toml", "front"
"""The recipe of the best trial; the folder of those of a Pareto front."""


def write(folder: Path, base: Path, space: Space, result: Result) -> None:
    """Write ``best.toml``, and with several targets ``front/trial-<number>.toml`` for each trial of the front.

    Args:
        folder: of the search.
        base: folder that the recipe's relative paths start from.
        space: makes the recipes.
        result: of the search.
    """
    trials = {trial.number: trial for trial in result.trials}
    if result.best is not None:
        _recipe(folder / BEST, base, space, result, result.best)
    if len(result.targets) > 1 and result.front:
        shutil.rmtree(folder / FRONT, ignore_errors=True)
        (folder / FRONT).mkdir()
        for number in result.front:
            _recipe(folder / FRONT / f"{findings.folder(number)}.toml", base, space, result, trials[number])


def _recipe(path: Path, base: Path, space: Space, result: Result, trial: Trial) -> None:
    raw = space.raw(trial.settings)
    paths.move(raw, base, path.parent)
    more = f"; the best in {result.targets[0].name} of {len(result.front)} on the Pareto front"
    lines = [
        f"edgekit tune: {findings.line(trial, result.targets)}{more if len(result.targets) > 1 else ''}",
        *(f"{target.name}: {of}" for target, of in zip(result.targets, trial.of, strict=True)),
    ]
    write_text(path, "".join(f"# {line}\n" for line in lines) + f"\n{tomli_w.dumps(raw)}")
