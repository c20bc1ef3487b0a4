"""The command ``tune``."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli._common import apart, guarded
from edgekit.cli.run import job_of, options
from edgekit.errors import InputError, need
from edgekit.runtime import terminal

if TYPE_CHECKING:
    from edgekit.pipeline.run import Job
    from edgekit.tune.records import Result

KEYS = ("trials", "sampler", "pruner", "objective", "storage", "study", "time_budget")


@click.command(no_args_is_help=True)
@partial(options, target="RECIPE", out="Folder of all trials. [runs/<recipe>-tune]")
@click.option("--trials", type=int, help="How many runs. [50; of a grid: all]")
@click.option("--workers", type=click.IntRange(1, 64), default=1, help="Processes on this machine. [1]")
@click.option("--sampler", metavar="NAME", help="tpe (default), random or grid.")
@click.option("--pruner", metavar="NAME", help="Which trials are stopped early: median, halving or none.")
@click.option("--objective", metavar="A,B", help="accuracy (default), latency, size: one, or several.")
@click.option("--storage", metavar="FILE|URL", help="Journal file, or database for many machines.")
@click.option("--study", metavar="NAME", help="Name in the storage. [<recipe>]")
@click.option("--time-budget", metavar="TIME", help="How long each worker may begin new trials, e.g. 2h.")
def tune(workers: int, as_json: bool, quiet: bool, debug: bool, **flags: Any) -> None:
    """Search for the best values of any keys of a recipe.

    The recipe's [tune.space] says what is varied. Each trial is a run in a folder of its own, as far as the objectives
    need it, and is judged by validation images, never by test images. Workers join with the same command, here or, with
    a database, on other machines. A killed worker loses nothing but time: another one takes its trial. The same command
    goes on where a stopped one was. The best recipe is written as best.toml.

    \b
    Examples:
      edgekit tune my.toml --trials 30
      edgekit tune my.toml --objective accuracy,latency,size --device my-pi
      edgekit tune my.toml --workers 4 --sampler random
      edgekit tune my.toml --storage postgresql://me@server/trials --time-budget 8h
    """

    def work() -> None:
        need("pydantic", extra="compress", purpose="reading recipes")
        need("optuna", extra="tune", purpose="edgekit tune")
        from edgekit.cli._workers import helpers
        from edgekit.console import Console

        with apart():
            os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
            job = _job(dict(flags))
            _check_devices(job, workers)
            from edgekit.tune.flow import Search

            job.out.mkdir(parents=True, exist_ok=True)
            search = Search(job, Console(quiet))
            with helpers(_command(flags, job.out), workers - 1, job.out, Console(quiet)):
                result = search.run()
        click.echo(json.dumps(_as_dict(result), indent=2) if as_json else terminal.lines(_summary(result, job.out)))

    guarded(work, debug)


def _job(flags: dict[str, Any]) -> Job:
    """The recipe with the options written into its [tune] section."""
    asked = {key: flags.pop(key) for key in KEYS}
    if asked["objective"] is not None:
        asked["objective"] = json.dumps([word.strip() for word in asked["objective"].split(",") if word.strip()])
    if asked["storage"] is not None and "://" not in asked["storage"]:
        asked["storage"] = str(Path(asked["storage"]).resolve())
    given = tuple(f"tune.{key}={value}" for key, value in asked.items() if value is not None)
    job = job_of(flags["target"], (*flags["overrides"], *given), flags["out"], flags["devices"])
    return job if flags["out"] else replace(job, out=Path("runs") / f"{job.recipe.name}-tune")


def _check_devices(job: Job, workers: int) -> None:
    """Refuse to measure on this machine while other workers are training on it."""
    here = [name for name, device in job.devices.items() if device.reach.by == "local"]
    if workers > 1 and here and job.recipe.tune and "latency" in job.recipe.tune.objective:
        raise InputError(
            f"tune: {workers} workers would disturb each other's measurements on {here[0]}, which is this machine: "
            "use --workers 1, or a device elsewhere"
        )


def _command(flags: dict[str, Any], out: Path) -> list[str]:
    """The command of another worker."""
    words = ["tune", flags["target"], "--out", str(out)]
    words += [word for value in flags["overrides"] for word in ("--set", value)]
    words += [word for value in flags["devices"] for word in ("--device", value)]
    given = [key for key in KEYS if flags[key] is not None]
    return words + [word for key in given for word in (f"--{key.replace('_', '-')}", str(flags[key]))]


def _as_dict(result: Result) -> dict[str, Any]:
    from pydantic import TypeAdapter

    values: dict[str, Any] = TypeAdapter(type(result)).dump_python(result, mode="json")
    return values


def _summary(result: Result, out: Path) -> str:
    """The ten best trials as a table, the outcome, and where everything is."""
    from edgekit.cli._results import table
    from edgekit.tune import findings, replay, report

    keys, shown = list(result.space), findings.ranked(result)[: max(10, len(result.front))]
    rows = [
        (str(one.number), *findings.settings(one, keys), *findings.values(one, result.targets), findings.state(one))
        for one in shown
    ]
    lines = [table(("trial", *keys, *(target.name for target in result.targets), ""), rows), result.said]
    lines += [f"best recipe: {out / replay.BEST}"] if result.front else []
    lines.append(f"report: {out / report.PAGE}")
    return "\n".join(lines)


COMMANDS = (tune,)
