"""The ``edgekit`` command. Heavy imports stay inside the bodies, so that ``--help`` is quick."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

import click
from click.shell_completion import CompletionItem

from edgekit import __version__, _cli_bundle, _cli_devices, _cli_inspect, _cli_report
from edgekit.errors import EdgekitError, InputError, Shortfall, need
from edgekit.runtime._errors import RuntimeFault

if TYPE_CHECKING:
    from edgekit.console import Console
    from edgekit.device import Device
    from edgekit.measurements import Failure
    from edgekit.pipeline import Job, Outcome
    from edgekit.recipe import ProfileSection

F = TypeVar("F", bound=Callable[..., Any])


class _Group(click.Group):
    """Says what was meant when a command is not known; lists commands in the order of the pipeline."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from edgekit import choices

        if args[:2] == ["report", "compare"]:
            args = args[1:]
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


def _complete(kind: Literal["recipes", "devices"]) -> Callable[..., list[CompletionItem]]:
    """Shell completion: the names of what is shipped, else files."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from edgekit import shipped

        names = [name for name in shipped.files(kind) if name.startswith(incomplete)]
        return [CompletionItem(name) for name in names] or [CompletionItem(incomplete, type="file")]

    return complete


def _options(command: F, target: str = "[RECIPE|RUN]", out: str = "Run directory. [runs/<recipe>]") -> F:
    """What every command that works on a recipe or a run directory takes."""
    for option in (
        click.option("--debug", is_flag=True, help="Show tracebacks."),
        click.option("--quiet", "-q", is_flag=True, help="No progress on stderr."),
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
        click.option(
            "--device",
            "devices",
            multiple=True,
            metavar="NAME",
            shell_complete=_complete("devices"),
            help="Measure on this device (repeatable).",
        ),
        click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help=out),
        click.option(
            "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key: section.key=value."
        ),
        click.argument("target", default="digits", metavar=target, shell_complete=_complete("recipes")),
    ):
        command = option(command)
    return command


@cli.command()
@_options
def run(**flags: Any) -> None:
    """Do every stage that RECIPE names.

    Stages whose inputs have not changed are skipped.
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
def prune(**flags: Any) -> None:
    """Up to the pruned network: data, train, prune.

    \b
    Examples:
      edgekit prune digits --set prune.macs=0.5
      edgekit prune runs/mine --set prune.latency=0.6 --device host
    """
    _go("prune", **flags)


@cli.command()
@_options
def compress(**flags: Any) -> None:
    """Up to a bundle of verified files, not measured.

    \b
    Example:
      edgekit compress runs/digits --set quantize.range=mse
    """
    _go("bundle", **flags)


@cli.command()
@partial(_options, target="[RECIPE|RUN|BUNDLE]", out="Where to write. [runs/<recipe>, profiles/<bundle>]")
@click.option("--sustained", metavar="TIME", help="Then run each file so long without a break, e.g. 10m.")
def profile(sustained: str | None, overrides: tuple[str, ...], **flags: Any) -> None:
    """Up to latencies: what has changed before, then measure.

    BUNDLE is an .edgekit file, or a hand-written manifest (.json): its models are measured on each device (this machine
    if none is named), its golden vectors replayed there, and the reports written.

    \b
    Examples:
      edgekit profile runs/digits --device host
      edgekit profile runs/digits --device raspberry-pi-5 --sustained 10m
      edgekit profile digits.edgekit --device host --device my-pi.toml
    """
    more = () if sustained is None else (f"profile.sustained={sustained}",)
    _go("profile", overrides=(*overrides, *more), **flags)


@cli.command()
@_options
def report(**flags: Any) -> None:
    """Write the reports: HTML, Markdown, JSON and CSV.

    \b
    Examples:
      edgekit report runs/digits
      edgekit report runs/digits --json
      edgekit report compare runs/old runs/new
    """
    _go("report", **flags)


for _command in (*_cli_report.COMMANDS, *_cli_bundle.COMMANDS, *_cli_inspect.COMMANDS):
    cli.add_command(_command)


@cli.group(cls=_Group, invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_context
def recipes(ctx: click.Context, as_json: bool) -> None:
    """List the shipped recipes.

    \b
    Examples:
      edgekit recipes
      edgekit recipes schema > recipe.schema.json
    """
    if ctx.invoked_subcommand is None:
        _list("recipes", as_json)


@recipes.command("schema")
def recipes_schema() -> None:
    """Print the JSON schema of a recipe, for editors.

    \b
    Example:
      edgekit recipes schema > recipe.schema.json
    """
    _guard(lambda: _print_schema("edgekit.recipe"), debug=False)


@cli.group(cls=_Group, invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_context
def devices(ctx: click.Context, as_json: bool) -> None:
    """List the shipped devices.

    \b
    Examples:
      edgekit devices
      edgekit devices probe pi@rpi5.local
      edgekit devices check my-pi.toml
    """
    if ctx.invoked_subcommand is None:
        _list("devices", as_json)


@devices.command("schema")
def devices_schema() -> None:
    """Print the JSON schema of a device, for editors.

    \b
    Example:
      edgekit devices schema > device.schema.json
    """
    _guard(lambda: _print_schema("edgekit.device"), debug=False)


for _command in _cli_devices.COMMANDS:
    devices.add_command(_command)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def doctor(as_json: bool) -> None:
    """Show what is installed here and what is missing.

    \b
    Example:
      edgekit doctor --json
    """
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
        from edgekit.profile import bundled

        if last == "profile" and bundled.matches(target):
            outcome = _profiled(target, overrides, out, devices, Console(quiet))
        else:
            outcome = pipeline.run(_job(target, overrides, out, devices), Console(quiet), last)
        click.echo(json.dumps(_as_dict(outcome), indent=2) if as_json else _summary(outcome))
        if outcome.lost:
            raise Shortfall(_missing(outcome.lost))

    _guard(work, debug)


def _job(target: str, overrides: tuple[str, ...], out: Path | None, names: tuple[str, ...]) -> Job:
    from edgekit import pipeline, recipe, shipped

    folder = Path(target)
    if folder.suffix == ".edgekit" and not folder.is_dir():
        raise InputError(f"{target}: a bundle, whose files are made; edgekit profile, inspect and predict take one")
    if (folder / "recipe.json").is_file():
        loaded, base = recipe.resume(folder / "recipe.json", overrides)
        out = out or folder
    elif folder.is_dir() and target not in shipped.files("recipes"):
        raise InputError(f"{target}: neither a recipe nor a run directory (it has no recipe.json)")
    else:
        path = shipped.find("recipes", target)
        loaded, base = recipe.load(path, overrides), path.resolve().parent
    if names:  # as good as profile.devices, and remembered with it
        chosen = [str(Path(name).resolve()) if shipped.is_path(name) else name for name in names]
        section = loaded.profile or recipe.ProfileSection()
        loaded = loaded.model_copy(update={"profile": section.model_copy(update={"devices": chosen})})
    found = _devices(loaded.profile, base) if loaded.profile else {}
    return pipeline.Job(loaded, base, out or Path("runs") / loaded.name, found)


def _devices(section: ProfileSection, base: Path | None) -> dict[str, Device]:
    """The devices of a [profile] section, whose files start from `base`, by name."""
    from edgekit import device, shipped

    found: dict[str, Device] = {}
    for name in section.devices:
        path = shipped.find("devices", name, base)
        each = device.load(path)
        if each.name in found:
            raise InputError(f'{path}: a device called "{each.name}" is already in this run; give each its own name')
        if section.sustained is not None:
            run = each.run.model_copy(update={"sustained": section.sustained})
            each = each.model_copy(update={"run": run})
        found[each.name] = each
    return found


def _profiled(
    target: str, overrides: tuple[str, ...], out: Path | None, names: tuple[str, ...], console: Console
) -> Outcome:
    from edgekit import recipe
    from edgekit.profile import bundled

    section = recipe.profile_section(overrides, ("operators", "sustained"), "the models of a bundle are made")
    section = section.model_copy(update={"devices": list(names) or section.devices})
    return bundled.profile(Path(target), _devices(section, None), console, out, section.operators)


def _summary(outcome: Outcome) -> str:
    lines = [f"{verdict.device}: {verdict.reason}" for verdict in outcome.verdict]
    if outcome.bundle:
        lines.append(f"bundle: {outcome.bundle}")
    lines.append(f"report: {outcome.report / 'report.html'}" if outcome.report else f"run directory: {outcome.out}")
    return "\n".join(lines)


def _missing(lost: Sequence[Failure]) -> str:
    """What was not measured, a line a device."""
    reasons: dict[str, list[str]] = {}
    for failure in lost:
        reasons.setdefault(failure.device, []).append(failure.reason)
    lines = [f"{device}: {len(all_)} not measured: {all_[0]}" for device, all_ in reasons.items()]
    return "\n  ".join(lines) + "; the same command measures what is missing"


def _as_dict(outcome: Outcome) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "run": str(outcome.out),
        "stages": [asdict(stage) for stage in outcome.stages],
        "verdict": [asdict(verdict) for verdict in outcome.verdict],
        "bundle": str(outcome.bundle) if outcome.bundle else None,
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
        click.echo(f"{row['name']:<{width}}  {row['description']}".rstrip())


def _about(table: dict[str, Any]) -> str:
    return str(table.get("description") or table.get("soc") or table.get("name") or "")


def _print_schema(module: str) -> None:
    import importlib

    need("pydantic", extra="compress", purpose="printing a schema")
    click.echo(json.dumps(importlib.import_module(module).schema(), indent=2))


def _guard(work: Callable[[], None], debug: bool) -> None:
    """Run a command's body; every foreseeable trouble becomes one line and an exit code."""
    if debug:
        work()
        return
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # torchao's deprecations are not the user's
    try:
        work()
    except EdgekitError as error:
        _stop(str(error), error.exit_code)
    except RuntimeFault as error:
        _stop(str(error), 1)
    except KeyboardInterrupt:
        _stop("interrupted; the same command goes on from here", 128 + signal.SIGINT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        reason = (str(error).strip() or "no message").splitlines()[0]
        _stop(f"unexpected {type(error).__name__}: {reason}; run again with --debug for the traceback", 1)


def _stop(message: str, code: int) -> NoReturn:
    click.echo(f"edgekit: {message}", err=True)
    sys.exit(code)


def main() -> None:
    """Entry point."""
    cli(prog_name="edgekit")
