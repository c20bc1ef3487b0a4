"""The command ``sweep``."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli import _complete
from edgekit.cli._common import apart, guarded
from edgekit.cli.run import job_of, options
from edgekit.errors import InputError, Shortfall, need
from edgekit.runtime import terminal

if TYPE_CHECKING:
    from edgekit.pipeline.run import Job
    from edgekit.sweep.flow import Sweep
    from edgekit.sweep.records import Result


@click.command(no_args_is_help=True)
@partial(options, out="Folder of all runs. [runs/<recipe>-sweep]", device="Compare on this device (repeatable).")
@click.option(
    "--vary",
    multiple=True,
    metavar="KEY=A,B",
    shell_complete=_complete.override,
    help="Values of a key of the recipe (repeatable); none leaves a key out that has no default.",
)
@click.option("--workers", type=click.IntRange(1, 64), default=1, help="Processes on this machine. [1]")
@click.option("--ray", metavar="auto|HOST:PORT", help="Train and compress on the nodes of this Ray cluster.")
@click.option("--retry", is_flag=True, help="Run failed combinations again.")
@click.option("--dry-run", is_flag=True, help="Run nothing: list the combinations, and which stages they share.")
def sweep(
    vary: tuple[str, ...],
    workers: int,
    ray: str | None,
    retry: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    debug: bool,
    **flags: Any,
) -> None:
    """Run every combination of some values and compare them.

    What is varied is in --vary, or in the recipe's [sweep]: any keys, each with a list of values. Each combination is a
    whole run in a folder of its own. A stage that several of them share is done once. Files are made side by side, then
    measured one after another. The same command goes on where a stopped one was, and more workers join with it.

    \b
    Examples:
      edgekit sweep my.toml --vary model.name=mobilenetv2_100,mobilenetv3_small_100 --vary data.input=128,160
      edgekit sweep my.toml --vary prune.macs=none,0.7,0.5 --workers 2 --device host --device my-pi
      edgekit sweep my.toml --dry-run
      edgekit sweep my.toml --ray 10.0.0.1:6379
    """

    def work() -> None:
        need("pydantic", extra="compress", purpose="reading recipes")
        from edgekit.console import Console
        from edgekit.sweep import space
        from edgekit.sweep.flow import Sweep

        with apart():
            job = _job(vary, **flags)
            made = Sweep(job, space.asked(job.recipe.sweep, vary), Console(quiet))
            result = None if dry_run else _run(made, _command(flags, vary, job.out), workers, ray, retry)
        if result is None:
            click.echo(json.dumps(_listed(made), indent=2) if as_json else terminal.lines(_dry(made)))
            return
        click.echo(json.dumps(_as_dict(result), indent=2) if as_json else terminal.lines(_summary(result, job.out)))
        if not result.count("done"):
            why = next((one.why for one in result.combinations if one.state == "failed"), "")
            raise Shortfall(f"sweep: no combination has a result; the first: {why}")

    guarded(work, debug)


def _job(
    vary: tuple[str, ...], target: str, overrides: tuple[str, ...], out: Path | None, devices: tuple[str, ...]
) -> Job:
    from edgekit.sweep import space

    try:
        job = job_of(target, overrides, out, devices)
    except InputError as refused:
        try:  # it may be a recipe with a key that varies
            job = job_of(target, (*overrides, *space.first(vary)), out, devices)
        except InputError:
            raise refused from None
    return job if out else replace(job, out=Path("runs") / f"{job.recipe.name}-sweep")


def _run(made: Sweep, command: list[str], workers: int, ray: str | None, retry: bool) -> Result:
    """Do the work, and write the reports even if something stops it."""
    from edgekit.cli._workers import helpers
    from edgekit.disk import locks
    from edgekit.sweep import cluster, findings, flow, report

    with ExitStack() as stack:
        nodes = stack.enter_context(cluster.connected(ray)) if ray else None
        made.begin(retry)
        try:
            if nodes:
                nodes.work(made)
            os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
            with helpers(command, workers - 1, made.job.out, made.console):
                made.work()
        finally:  # whatever stopped it: what was done is there to see
            with locks.exclusive(made.job.out / flow.LOCKS / "report"):
                result = findings.result(made)
                report.write(made.job.out, result)
    return result


def _command(flags: dict[str, Any], vary: tuple[str, ...], out: Path) -> list[str]:
    """The command of another worker."""
    words = ["sweep", flags["target"], "--out", str(out)]
    for option, values in (("--set", flags["overrides"]), ("--device", flags["devices"]), ("--vary", vary)):
        words += [word for value in values for word in (option, value)]
    return words


def _listed(made: Sweep) -> dict[str, Any]:
    """What a dry run says, as plain data."""
    from edgekit.sweep import plan

    shared = dict(zip(made.plans, plan.shared(list(made.plans.values())), strict=True))
    numbers = list(made.plans)
    rows = [
        {
            "number": one.number,
            "settings": one.settings,
            "folder": one.folder,
            "left_out": one.why,
            "stages": {name: numbers[place] for name, place in shared.get(one.number, {}).items()},
        }
        for one in made.combinations
    ]
    return {"name": made.job.recipe.name, "out": str(made.job.out), "combinations": rows}


def _dry(made: Sweep) -> str:
    from edgekit.cli._results import table
    from edgekit.disk.run_directory import ORDER
    from edgekit.sweep import space

    listed = _listed(made)["combinations"]
    stages = [name for name in ORDER if any(name in row["stages"] for row in listed)]
    rows = [
        (
            str(row["number"]),
            *(space.shown(value) for value in row["settings"].values()),
            *(_whose(row["stages"].get(name), row["number"]) for name in stages),
            f"left out: {row['left_out']}" if row["left_out"] else "",
        )
        for row in listed
    ]
    counts = [f"{name} {len({row['stages'][name] for row in listed if name in row['stages']})}" for name in stages]
    said = f"{len(made.plans)} runs. Stages to do, those that are shared once: {', '.join(counts)}."
    return "\n".join((table(("", *made.listed, *stages, ""), rows), said, "Nothing was run."))


def _whose(first: int | None, number: int) -> str:
    return "" if first is None else "own" if first == number else f"as {first}"


def _as_dict(result: Result) -> dict[str, Any]:
    from pydantic import TypeAdapter

    values: dict[str, Any] = TypeAdapter(type(result)).dump_python(result, mode="json")
    return values


def _summary(result: Result, out: Path) -> str:
    """What each combination would ship on each device, those without a result, the outcome, and where everything is."""
    from edgekit.cli._results import table
    from edgekit.report.svg import megabytes, ms, percent
    from edgekit.sweep import findings, report

    keys, by_number = list(result.varied), {one.number: one for one in result.combinations}
    rows = [
        (
            str(row.combination),
            *findings.settings(by_number[row.combination], keys),
            f"{row.device}, {row.kind}" if row.kind else "not measured",
            row.artifact,
            row.engine,
            percent(row.top1),
            "" if row.p50_ms is None else ms(row.p50_ms),
            megabytes(row.bytes),
            "front" if row.front else "",
        )
        for row in result.rows
    ]
    heads = ("", *keys, "device", "ships", "engine", "top-1", "p50 ms", "size", "")
    lines = [table(heads, rows)] if rows else []
    lines += [f"{one.number} {one.state}: {one.why}" for one in result.combinations if one.why]
    lines += [result.said, f"report: {out / report.PAGE}"]
    return "\n".join(lines)


COMMANDS = (sweep,)
