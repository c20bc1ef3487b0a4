"""The commands ``fit`` and ``predict-latency``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli._common import apart, guarded
from edgekit.cli.run import job_of, options
from edgekit.errors import InputError, Shortfall, need
from edgekit.runtime import terminal

if TYPE_CHECKING:
    from edgekit.fit.predicting import Guess
    from edgekit.fit.records import Candidate, Result
    from edgekit.pipeline.run import Job

KEYS = ("max_ms", "percentile", "max_drop", "max_mb", "max_rss", "time_budget", "models", "resolutions", "candidates")


@click.command(no_args_is_help=True)
@partial(options, target="RECIPE", out="Folder of all runs of the search. [runs/<recipe>-fit]")
@click.option("--max-ms", type=float, metavar="MS", help="Milliseconds that an inference may take on each device.")
@click.option("--percentile", type=int, help="Of the times, what has to be within: 50 (default), 90 or 99.")
@click.option("--max-drop", type=float, metavar="POINTS", help="Points of top-1 that may be lost. [1.0]")
@click.option("--max-mb", type=float, metavar="MB", help="Megabytes that the file may have.")
@click.option("--max-rss", type=float, metavar="MB", help="Megabytes of memory that the process may take.")
@click.option("--time-budget", metavar="TIME", help="How long the search may take, e.g. 2h.")
@click.option("--models", metavar="A,B", help="Other networks to try, pretrained; empty for none.")
@click.option("--resolutions", metavar="PX,PX", help="Other input sides to try; an empty list for none.")
@click.option("--candidates", type=int, help="Pruned networks that training chooses from. [6]")
@click.option("--dry-run", is_flag=True, help="Train nothing: what is feasible, and the predicted front.")
def fit(dry_run: bool, as_json: bool, quiet: bool, debug: bool, **flags: Any) -> None:
    """Find the most accurate network within a latency budget.

    Random narrower networks are timed on the device to learn what channels cost there. Networks are planned for the
    budget, timed, trained in rungs, and compared with a lower resolution. The best one is quantized, verified, packed,
    and measured again. The same command goes on where a stopped one was. RECIPE can hold the options as [fit].

    \b
    Examples:
      edgekit fit recipes/trashnet.toml --device my-pi --max-ms 8 --max-drop 1.0
      edgekit fit digits --max-ms 0.2 --dry-run
      edgekit fit my.toml --device phone --device my-pi --max-ms 12 --percentile 90 --time-budget 2h
    """

    def work() -> None:
        need("pydantic", extra="compress", purpose="reading recipes")
        from edgekit.console import Console

        with apart():
            job = _job(flags)
            from edgekit.disk.run_directory import RunDirectory
            from edgekit.fit.flow import Search

            with RunDirectory(job.out).locked():
                result = Search(job, Console(quiet), dry_run).run()
        click.echo(json.dumps(_as_dict(result), indent=2) if as_json else terminal.lines(_summary(result, job.out)))
        if not dry_run and not result.holds:
            raise Shortfall(f"fit: {result.said}")

    guarded(work, debug)


def _job(flags: dict[str, Any]) -> Job:
    """The recipe with the options written into its [fit] section."""
    asked = {key: flags.pop(key) for key in KEYS}
    for key in ("models", "resolutions"):
        if asked[key] is not None:
            words = [word.strip() for word in asked[key].split(",") if word.strip()]
            asked[key] = json.dumps([int(word) if key == "resolutions" and word.isdigit() else word for word in words])
    given = tuple(f"fit.{key}={value}" for key, value in asked.items() if value is not None)
    job = job_of(flags["target"], (*flags["overrides"], *given), flags["out"], flags["devices"])
    if job.recipe.fit is None:
        raise InputError("fit: needs a budget: --max-ms MS, or max_ms in a [fit] section of the recipe")
    return job if flags["out"] else _own_folder(job)


def _as_dict(result: Result) -> dict[str, Any]:
    from pydantic import TypeAdapter

    values: dict[str, Any] = TypeAdapter(type(result)).dump_python(result, mode="json")
    return values


def _summary(result: Result, out: Path) -> str:
    """The front as a table, the outcome, and where everything is."""
    from edgekit.cli._results import table
    from edgekit.fit import report

    rows = []
    for one in (result.whole, *result.front, *result.candidates):
        if one is result.whole or one.id != result.whole.id:
            score = f"{one.accuracy:.1%}" if one.accuracy is not None else ""
            mark = "ships" if one.id == result.chosen else one.dropped
            rows.append((one.id, str(one.net), f"{one.macs / 1e6:.0f}", _measured(one), _predicted(one), score, mark))
    lines = [table(("network", "of", "M macs", "timed ms", "predicted ms", "val top-1", ""), rows)]
    lines += [f"{device}: {said}" for device, said in result.models.items()]
    lines += [result.said] if result.said else []
    spent = result.spent
    devices = f"{spent.files} files timed in {spent.device_seconds:.0f} s"
    lines.append(f"{devices}, {spent.training_seconds:.0f} s of training")
    lines.append(f"report: {out / report.PAGE}")
    return "\n".join(lines)


def _measured(one: Candidate) -> str:
    """What was measured; an estimate says so."""
    return ", ".join(f"{row.ms:.3g}" + ("" if row.kind == "measured" else f" {row.kind}") for row in one.measured)


def _predicted(one: Candidate) -> str:
    return ", ".join(f"{each.ms:.3g} ({each.low:.3g}-{each.high:.3g})" for each in one.predicted)


@click.command("predict-latency", no_args_is_help=True)
@partial(
    options,
    target="RECIPE",
    out="Folder in which the data are read. [runs/<recipe>-fit]",
    device="Device to predict for (repeatable).",
)
def predict_latency(as_json: bool, quiet: bool, debug: bool, **flags: Any) -> None:
    """Predict the latency of a network without the device.

    The network is RECIPE's, narrowed by prune.plan if it has one. What predicts is each latency model that edgekit fit
    has learnt for the network and the device, one for each engine. The prediction is the median of an inference, with a
    95 % interval; how far off the model was on networks it had not seen is beside it. The data are read once, as the
    last layer has an output for each class.

    \b
    Examples:
      edgekit predict-latency recipes/trashnet.toml --device my-pi
      edgekit predict-latency runs/trashnet-fit/fit.toml --device my-pi --json
      edgekit predict-latency my.toml --device my-pi --device phone
    """

    def work() -> None:
        need("pydantic", extra="compress", purpose="reading recipes")
        from edgekit.console import Console

        with apart():
            job = job_of(flags["target"], flags["overrides"], flags["out"], flags["devices"])
            from edgekit.fit import predicting

            named = "".join(f" --device {name}" for name in flags["devices"])
            advice = f"edgekit fit {flags['target']}{named} --max-ms MS --dry-run"
            guesses = predicting.predict(job if flags["out"] else _own_folder(job), Console(quiet), advice)
        rows = [_guess(row) for row in guesses.rows]
        facts = {key: getattr(guesses, key) for key in ("network", "plan", "macs", "parameters")}
        answer = json.dumps({**facts, "predictions": rows}, indent=2)
        click.echo(answer if as_json else terminal.lines(_predictions(facts, rows)))

    guarded(work, debug)


def _own_folder(job: Job) -> Job:
    return replace(job, out=Path("runs") / f"{job.recipe.name}-fit")


def _guess(row: Guess) -> dict[str, Any]:
    """One line of the answer as plain data."""
    model, names = row.model, ("device", "cpu", "engine", "engine_version", "format", "precision", "threads")
    return {
        **{name: getattr(model.subject, name) for name in names},
        "kind": model.kind,
        **{name: round(getattr(row.prediction, name), 5) for name in ("ms", "low", "high")},
        "held_out": {"networks": len(model.networks), "median": model.errors.median, "p90": model.errors.p90},
    }


def _predictions(facts: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    from edgekit.cli._results import table

    size = f"{facts['macs'] / 1e6:.3g} M multiply-adds, {facts['parameters'] / 1e6:.3g} M parameters"
    lines = [f"{facts['network']}, {facts['plan'] or 'unpruned'}: {size}"]
    cells = [
        (
            row["device"],
            f"{row['ms']:.3g}",
            f"{row['low']:.3g} to {row['high']:.3g}",
            f"{row['engine']} {row['engine_version']}",
            f"{row['format']} {row['precision']}",
            str(row["threads"]),
            row["cpu"],
            row["kind"],
            f"{row['held_out']['median']:.1%}",
            f"{row['held_out']['p90']:.1%}",
        )
        for row in rows
    ]
    heads = (
        "device",
        "predicted ms",
        "95 % interval",
        "engine",
        "file",
        "threads",
        "cpu",
        "learnt from",
        "median error",
    )
    return "\n".join((*lines, table((*heads, "90 % within"), cells)))


COMMANDS = (fit, predict_latency)
