"""Check the data of a recipe, and write what was found: for programs, for people, and for the recipe itself."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from edgekit import choices
from edgekit.config.recipe import Recipe
from edgekit.console import Console
from edgekit.data import corrections, index_file, port
from edgekit.datacheck import page, survey, table
from edgekit.datacheck.port import check
from edgekit.datacheck.records import EXCLUDE, JSON, PAGE, RELABEL, SUSPECTS, Checked, Result
from edgekit.disk import json_file
from edgekit.disk.atomic import cannot_write, write_text
from edgekit.report.contents import summarise

ORDER = ("cleaning", "balance", "sizes", "duplicates", "labels")
IMAGES = "data"
"""Folder for images that a source writes."""
BEFORE = "as before"
"""Reason of a row that the recipe has already."""


def run(recipe: Recipe, base: Path, out: Path, console: Console, embed: bool = True) -> Result:
    """Check the data and write ``check.json``, ``check.html``, ``exclude.csv``, ``relabel.csv`` and ``suspects.csv``.

    Args:
        recipe: what says where the images are, and which network sees them.
        base: folder that its relative paths start from.
        out: folder to write into; made if there is none.
        console: progress.
        embed: whether to use the network.

    Raises:
        InputError: the images cannot be listed, a correction does not fit them, or the network cannot be built.
    """
    start = time.perf_counter()
    port.check(recipe.data)
    index = index_file.build(survey.lenient(recipe.data), base, out / IMAGES, console)
    root = index_file.root_of(index, out / IMAGES)
    net, where = None, "not asked for"
    if embed:
        net, where = survey.network(recipe, len(index.labels), base, lambda line: console.say(f"  {line}"))
    subject = survey.survey(recipe.data, index, root, net, console)
    checks: dict[str, Checked] = {}
    for name in sorted(choices.names("edgekit.datacheck.checks"), key=_turn):
        console.say(f"{name} ...")
        checks[name] = check(name).run(subject)
    excluded, relabelled = corrections.named(recipe.data, base)
    seconds = round(time.perf_counter() - start, 1)
    corrected = len(excluded) + len(relabelled)
    result = Result(1, recipe.name, index.labels, summarise(index).counts, where, checks, seconds, corrected)
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / EXCLUDE, _exclude(result, excluded))
        write_text(out / RELABEL, _relabel(result, relabelled, "relabel"))
        write_text(out / SUSPECTS, _relabel(result, relabelled, "suspect"))
        json_file.save(out / JSON, result)
        write_text(out / PAGE, page.render(result, root, recipe.data.channels, _from(base, out)))
    except OSError as error:
        raise cannot_write(out, error) from error
    return result


def _turn(name: str) -> tuple[int, str]:
    return ORDER.index(name) if name in ORDER else len(ORDER), name


def _from(base: Path, out: Path) -> Path:
    """The folder of the tables as a recipe in `base` may name it."""
    folder = out.resolve()
    return folder.relative_to(base.resolve()) if folder.is_relative_to(base.resolve()) else folder


def _exclude(result: Result, known: Iterable[str]) -> str:
    """The table for ``data.exclude``; it repeats what the recipe leaves out already."""
    rows = dict.fromkeys(known, BEFORE) | {path: found.kind for found in result.found for path in found.exclude}
    return table.text(("path", "reason"), rows.items())


def _relabel(result: Result, known: Mapping[str, str], which: Literal["relabel", "suspect"]) -> str:
    """A table for ``data.relabel``, likewise; an image that is to be left out needs no class."""
    rows = {path: (label, BEFORE) for path, label in known.items()}
    rows |= {path: (label, found.detail) for found in result.found for path, label in getattr(found, which)}
    gone = {path for found in result.found for path in found.exclude}
    return table.text(("path", "label", "reason"), ((path, *row) for path, row in rows.items() if path not in gone))
