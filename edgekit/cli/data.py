"""The commands ``data check`` and ``data label``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli import _complete
from edgekit.cli._common import Group, apart, as_json, debugged, guarded, overridden, quieted
from edgekit.cli.run import job_of
from edgekit.errors import Shortfall, need
from edgekit.runtime import terminal

if TYPE_CHECKING:
    from edgekit.datacheck.pseudo import Labelled
    from edgekit.datacheck.records import Result


@click.group(cls=Group)
def data() -> None:
    """Look at the images before and after training.

    \b
    Examples:
      edgekit data check digits                       what is wrong with the images, and what to fix
      edgekit data label runs/my photos/unlabelled    label a folder with the network of a run
    """


@data.command(no_args_is_help=True)
@click.argument("target", metavar="RECIPE", shell_complete=_complete.shipped("recipes"))
@overridden
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Where to write. [runs/<recipe>/data-check]"
)
@click.option("--no-network", is_flag=True, help="Do without embeddings: no label is doubted, and less looks alike.")
@click.option("--strict", is_flag=True, help="Exit 1 if anything is found.")
@as_json
@quieted
@debugged
def check(as_json: bool, quiet: bool, debug: bool, strict: bool, no_network: bool, **flags: Any) -> None:
    """Find what is wrong with the images of RECIPE.

    Looks at cleaning, class balance, sizes, near-duplicates within and across splits, and labels that are likely wrong.
    Writes a sheet of pictures (check.html), check.json, and what to fix as exclude.csv and relabel.csv, which a recipe
    takes as data.exclude and data.relabel; suspects.csv also has the labels that a person should look at. Labels are
    judged with embeddings from the recipe's pretrained network.

    \b
    Examples:
      edgekit data check recipes/trashnet.toml
      edgekit data check my.toml --out check --json
      edgekit data check my.toml --set data.exclude=runs/my/data-check/exclude.csv --strict
    """

    def work() -> None:
        need("pydantic", extra="compress", purpose="reading recipes")
        from edgekit.console import Console
        from edgekit.datacheck import flow

        with apart():  # a network of the user's may print
            job = job_of(flags["target"], flags["overrides"], None, ())
            out = flags["out"] or job.out / "data-check"
            result = flow.run(job.recipe, job.base, out, Console(quiet), not no_network)
        click.echo(json.dumps(_as_dict(result), indent=2) if as_json else terminal.lines(_summary(result, out)))
        if strict and result.found:
            raise Shortfall(f"data check: {len(result.found)} findings in {result.name}; see {out / 'check.html'}")

    guarded(work, debug)


@data.command(no_args_is_help=True)
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option(
    "--min-confidence",
    type=click.FloatRange(0, 1),
    default=0.95,
    show_default=True,
    help="Probability from which on an image gets its likeliest class.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", default="pseudo.csv", show_default=True, help="The table."
)
@as_json
@quieted
@debugged
def label(run: Path, folder: Path, min_confidence: float, out: Path, as_json: bool, quiet: bool, debug: bool) -> None:
    """Label the images in FOLDER with the network of RUN.

    Writes a table of the images that the network is sure of. A recipe takes it as data.extra: these images are trained
    on, and never scored. Says how many validation images of the run are as sure, and how many of those are right.

    \b
    Examples:
      edgekit data label runs/my photos/unlabelled --out pseudo.csv
      edgekit run my.toml --set data.extra=pseudo.csv --out runs/my-2
    """

    def work() -> None:
        need("pydantic", extra="compress", purpose="reading recipes")
        from edgekit.console import Console
        from edgekit.datacheck import pseudo

        with apart():
            found = pseudo.label(run, folder, min_confidence, out, Console(quiet))
        click.echo(json.dumps(_as_dict(found), indent=2) if as_json else terminal.lines(_labelled(found, out)))

    guarded(work, debug)


def _labelled(found: Labelled, out: Path) -> str:
    from edgekit.cli._results import table

    chosen = sum(found.counts.values())
    lines = [table(("class", "images"), [(name, str(count)) for name, count in found.counts.items()])]
    lines.append(f"{chosen} of {found.images} images are sure enough: {out}")
    if found.sure is not None:
        right = "" if found.right is None else f", and {found.right:.1%} of those are right"
        lines.append(f"of the validation images, {found.sure:.1%} are as sure{right}")
    if found.unreadable:
        lines.append(f"files that cannot be read: {len(found.unreadable)} ({', '.join(found.unreadable[:3])})")
    return "\n".join(lines)


def _as_dict(result: Result | Labelled) -> dict[str, Any]:
    from pydantic import TypeAdapter

    values: dict[str, Any] = TypeAdapter(type(result)).dump_python(result, mode="json")
    return values


def _summary(result: Result, out: Path) -> str:
    """Findings by kind as a table, and where everything is."""
    from edgekit.cli._results import table
    from edgekit.datacheck import records

    rows = [
        (
            kind,
            str(len(found)),
            str(sum(len(each.exclude) for each in found) or ""),
            str(sum(len(each.relabel) for each in found) or ""),
            found[0].detail,
        )
        for kind, found in result.kinds.items()
    ]
    seen = f"{result.images} images of {len(result.labels)} classes in {result.seconds:.0f} s"
    heads = ("kind", "findings", "to leave out", "to relabel", "the first")
    lines = [f"{seen}; embeddings: {result.network}", table(heads, rows) if rows else "nothing found"]
    lines += [f"{name}: {each.note}" for name, each in result.checks.items() if each.skipped]
    lines.append(f"pictures: {out / records.PAGE}")
    if rows:
        fixes = (records.EXCLUDE, records.RELABEL, records.SUSPECTS)
        lines.append(f"to fix: {', '.join(str(out / name) for name in fixes)}")
    return "\n".join(lines)


COMMANDS = (data,)
