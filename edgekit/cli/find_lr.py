"""The command ``find-lr``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from edgekit.cli import _complete
from edgekit.cli._common import apart, as_json, debugged, guarded, overridden, quieted
from edgekit.cli.run import job_of
from edgekit.errors import need
from edgekit.runtime import terminal


@click.command("find-lr", no_args_is_help=True)
@click.argument("target", metavar="RECIPE", shell_complete=_complete.shipped("recipes"))
@overridden
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Where to write. [runs/<recipe>/find-lr]")
@click.option("--steps", type=click.IntRange(20, 100_000), default=100, show_default=True, help="Batches.")
@click.option(
    "--from", "low", type=click.FloatRange(0, 1e6, min_open=True), default=1e-6, show_default=True, help="First rate."
)
@click.option(
    "--to", "high", type=click.FloatRange(0, 1e6, min_open=True), default=10.0, show_default=True, help="Last rate."
)
@as_json
@quieted
@debugged
def find_lr(target: str, as_json: bool, quiet: bool, debug: bool, **flags: Any) -> None:
    """Find a learning rate for RECIPE.

    Trains for some steps, with a rate that rises from --from to --to, until the loss explodes. A tenth of the rate at
    which the loss is lowest is suggested as train.lr. Writes the losses with their plot (find-lr.html), and no weights.

    \b
    Examples:
      edgekit find-lr recipes/trashnet.toml
      edgekit find-lr my.toml --set train.optimizer=sgd --steps 200
    """

    def work() -> None:
        need("pydantic", extra="compress", purpose="reading recipes")
        from edgekit.console import Console
        from edgekit.find_lr import finder
        from edgekit.find_lr.records import PAGE

        with apart():
            job = job_of(target, flags["overrides"], None, ())
            out = flags["out"] or job.out / "find-lr"
            result = finder.run(job.recipe, job.base, out, Console(quiet), flags["steps"], flags["low"], flags["high"])
        if as_json:
            from pydantic import TypeAdapter

            click.echo(json.dumps(TypeAdapter(type(result)).dump_python(result, mode="json"), indent=2))
            return
        lines = [
            f"the loss is lowest at a rate of {result.lowest:.2g}, and falls fastest at {result.steepest:.2g}",
            f"suggested: --set train.lr={result.suggestion:.2g}",
            f"plot: {out / PAGE}",
        ]
        if result.fell < 0.1:
            lines.insert(1, f"it falls by {result.fell:.1%} only: there is little to learn, so this is a guess")
        click.echo(terminal.lines("\n".join(lines)))

    guarded(work, debug)


COMMANDS = (find_lr,)
