"""The ``edgekit`` command. Heavy imports stay inside the bodies, so that ``--help`` is quick."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgekit import __version__
from edgekit.errors import EdgekitError, InputError, need

if TYPE_CHECKING:
    from edgekit.pipeline import Job, Outcome

F = TypeVar("F", bound=Callable[..., Any])
FULL = 1 << 20
"""Bytes left below which a failure is put down to a full disk."""


class _Group(click.Group):
    """Says what was meant when a command is not known; lists commands in the order of the pipeline."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from edgekit import choices

        if args and args[0] not in self.commands and not args[0].startswith("-"):
            ctx.fail(choices.no_such(args[0], self.commands, "command"))
        return super().resolve_command(ctx, args)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edgekit")
def cli() -> None:
    """Train, compress, verify and measure vision models for edge devices.

    \b
    Examples:
      edgekit run digits                        the whole pipeline on a small recipe
      edgekit run my.toml --set train.epochs=2  override any key of a recipe
      edgekit profile runs/my --device host     measure what an earlier run exported
      edgekit doctor                            what is installed, what is missing
    """


def _options(command: F) -> F:
    """What every command that works on a recipe or a run directory takes."""
    for option in (
        click.option("--debug", is_flag=True, help="Show tracebacks."),
        click.option("--quiet", "-q", is_flag=True, help="No progress on stderr."),
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
        click.option("--device", "devices", multiple=True, metavar="NAME", help="Measure on this device (repeatable)."),
        click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Run directory. [runs/<recipe>]"),
        click.option(
            "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key: section.key=value."
        ),
        click.argument("target", default="digits", metavar="[RECIPE|RUN]"),
    ):
        command = option(command)
    return command


@cli.command()
@_options
def run(**flags: Any) -> None:
    """Do every stage that RECIPE names; unchanged stages are skipped.

    RECIPE is a TOML file or the name of a shipped recipe, RUN the directory of an earlier run.

    \b
    Examples:
      edgekit run recipes/digits.toml
      edgekit run trashnet --set data.input=128 --out runs/small
    """
    _go("report", **flags)


@cli.command()
@_options
def train(**flags: Any) -> None:
    """Train only: data and train.

    \b
    Example:
      edgekit train digits --set train.epochs=5
    """
    _go("train", **flags)


@cli.command()
@_options
def compress(**flags: Any) -> None:
    """Up to verified files: data, train, quantize, export, verify.

    \b
    Example:
      edgekit compress runs/digits --set quantize.range=mse
    """
    _go("verify", **flags)


@cli.command()
@_options
def profile(**flags: Any) -> None:
    """Up to latencies: everything before, then measure on each device.

    \b
    Example:
      edgekit profile runs/digits --device host
    """
    _go("profile", **flags)


@cli.command()
@_options
def report(**flags: Any) -> None:
    """Write the reports again: everything before that has changed, then HTML, Markdown and JSON.

    \b
    Examples:
      edgekit report runs/digits
      edgekit report runs/digits --json
    """
    _go("report", **flags)


@cli.group(cls=_Group, invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_context
def recipes(ctx: click.Context, as_json: bool) -> None:
    """List the shipped recipes."""
    if ctx.invoked_subcommand is None:
        _list("recipes", as_json)


@recipes.command("schema")
def recipes_schema() -> None:
    """Print the JSON schema of a recipe, for editors."""
    _guard(lambda: _print_schema("edgekit.recipe"), debug=False)


@cli.group(cls=_Group, invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_context
def devices(ctx: click.Context, as_json: bool) -> None:
    """List the shipped devices."""
    if ctx.invoked_subcommand is None:
        _list("devices", as_json)


@devices.command("schema")
def devices_schema() -> None:
    """Print the JSON schema of a device, for editors."""
    _guard(lambda: _print_schema("edgekit.device"), debug=False)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def doctor(as_json: bool) -> None:
    """Show what is installed, what this machine offers, and what is missing for what."""
    from edgekit import doctor as checks

    found = checks.report()
    click.echo(json.dumps(found, indent=2) if as_json else checks.render(found))


def _go(
    last: str,
    target: str,
    overrides: tuple[str, ...],
    out: Path | None,
    devices: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    debug: bool,
) -> None:
    def work() -> None:
        need("pydantic", extra="compress", purpose="reading recipes")
        from edgekit import pipeline
        from edgekit.console import Console

        job = _job(target, overrides, out, devices)
        outcome = pipeline.run(job, Console(quiet), last)
        click.echo(json.dumps(_as_dict(outcome), indent=2) if as_json else _summary(outcome))

    _guard(work, debug, out)


def _job(target: str, overrides: tuple[str, ...], out: Path | None, names: tuple[str, ...]) -> Job:
    from edgekit import device, pipeline, recipe, shipped

    folder = Path(target)
    if (folder / "recipe.json").is_file():
        loaded, base = recipe.resume(folder / "recipe.json", overrides)
        out = out or folder
    elif folder.is_dir():
        raise InputError(f"{target}: neither a recipe nor a run directory (it has no recipe.json)")
    else:
        path = shipped.find("recipes", target)
        loaded, base = recipe.load(path, overrides), path.resolve().parent
    wanted = names or (tuple(loaded.profile.devices) if loaded.profile else ())
    found = [device.load(shipped.find("devices", name, None if names else base)) for name in wanted]
    return pipeline.Job(loaded, base, out or Path("runs") / loaded.name, {each.name: each for each in found})


def _summary(outcome: Outcome) -> str:
    lines = [f"{verdict.device}: {verdict.reason}" for verdict in outcome.verdict]
    lines.append(f"report: {outcome.report / 'report.html'}" if outcome.report else f"run directory: {outcome.out}")
    return "\n".join(lines)


def _as_dict(outcome: Outcome) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "run": str(outcome.out),
        "stages": [asdict(stage) for stage in outcome.stages],
        "verdict": [asdict(verdict) for verdict in outcome.verdict],
        "report": str(outcome.report / "report.json") if outcome.report else None,
    }


def _list(kind: Any, as_json: bool) -> None:
    import tomllib

    from edgekit import shipped

    rows = [
        {"name": name, "path": str(path), "description": _about(tomllib.loads(path.read_text(encoding="utf-8")))}
        for name, path in shipped.files(kind).items()
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        click.echo(f"{row['name']:<{width}}  {row['description']}")


def _about(table: dict[str, Any]) -> str:
    return str(table.get("description") or table.get("soc") or "")


def _print_schema(module: str) -> None:
    import importlib

    need("pydantic", extra="compress", purpose="printing a schema")
    click.echo(json.dumps(importlib.import_module(module).schema(), indent=2))


def _guard(work: Callable[[], None], debug: bool, out: Path | None = None) -> None:
    """Run a command's body; every foreseeable trouble becomes one line and an exit code."""
    if not debug:
        logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # torchao's deprecations are not the user's
    try:
        work()
    except EdgekitError as error:
        if debug:
            raise
        click.echo(f"edgekit: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        if debug:
            raise
        click.echo("edgekit: interrupted; the same command goes on from here", err=True)
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        click.echo(f"edgekit: {_disk_full(error, out) or _unexpected(error)}", err=True)
        sys.exit(1)


def _disk_full(error: Exception, out: Path | None) -> str | None:
    """Writers report a full disk in many ways; the disk itself is asked."""
    place = next(folder for folder in ((out or Path("runs")).resolve(), Path.cwd()) if folder.exists())
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or shutil.disk_usage(place).free < FULL:
        return f"{place}: the disk is full ({error}); free some space and run the same command again"
    return None


def _unexpected(error: Exception) -> str:
    reason = (str(error).strip() or "no message").splitlines()[0]
    return f"unexpected {type(error).__name__}: {reason}; run again with --debug for the traceback"


def main() -> None:
    """Entry point."""
    cli(prog_name="edgekit")
