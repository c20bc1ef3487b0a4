"""The commands that work on a recipe or a run: ``run``, ``train``, ``prune``, ``compress``, ``profile``, ``report``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgekit.cli import _complete
from edgekit.cli._common import apart, guarded, overridden, quieted
from edgekit.errors import EdgekitError, InputError, Shortfall, need
from edgekit.runtime import terminal

if TYPE_CHECKING:
    from edgekit.config.recipe import ProfileSection
    from edgekit.console import Console
    from edgekit.device.file import Device
    from edgekit.measurements import Failure
    from edgekit.pipeline.run import Job, Outcome

F = TypeVar("F", bound=Callable[..., Any])


def options(
    command: F,
    target: str = "RECIPE|RUN",
    out: str = "Run directory. [runs/<recipe>]",
    device: str = "Measure on this device (repeatable).",
) -> F:
    """The options and argument of every command that works on a recipe or a run directory."""
    for option in (
        click.option("--debug", is_flag=True, help="Show tracebacks."),
        quieted,
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
        click.option(
            "--device",
            "devices",
            multiple=True,
            metavar="NAME",
            shell_complete=_complete.shipped("devices"),
            help=device,
        ),
        click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help=out),
        overridden,
        click.argument("target", metavar=target, shell_complete=_complete.shipped("recipes")),
    ):
        command = option(command)
    return command


_strict = click.option(
    "--strict", is_flag=True, help="Exit 1 if the times do not tell which file is the fastest on a device."
)


@click.command(no_args_is_help=True)
@options
@_strict
def run(**flags: Any) -> None:
    """Run every stage in RECIPE.

    Stages whose inputs have not changed are skipped.
    RECIPE is a TOML file or the name of a shipped recipe. RUN is the directory of an earlier run. Either may name a
    Python file that builds the network, which is run: read a stranger's first.

    \b
    Examples:
      edgekit run recipes/digits.toml
      edgekit run trashnet --set data.input=128 --out runs/small
    """
    _go("report", **flags)


@click.command(no_args_is_help=True)
@options
@click.option("--processes", type=click.IntRange(1, 256), default=1, help="Train in so many processes. [1]")
@click.option(
    "--timeout",
    type=click.FloatRange(1, 1e6),
    default=300.0,
    metavar="SECONDS",
    help="How long one process may keep the others waiting. [300]",
)
def train(processes: int, timeout: float, **flags: Any) -> None:
    """Run the stages data and train.

    Several processes divide each batch, and end with the weights that one would have, but for the order of sums.
    torchrun may start them, too: on several machines, all of which find the data under the same paths.

    \b
    Examples:
      edgekit train digits --set train.epochs=5
      edgekit train trashnet --processes 2
      torchrun --nproc-per-node 4 -m edgekit train trashnet
    """
    from edgekit.train import launch

    if launch.launched():
        guarded(lambda: _as_one_of_several(timeout, flags), flags["debug"])
    elif processes > 1:
        guarded(lambda: sys.exit(launch.processes(processes, _without("--processes", sys.argv[1:]))), flags["debug"])
    else:
        _go("train", **flags)


def _as_one_of_several(timeout: float, flags: dict[str, Any]) -> None:
    """The command in a process that torchrun has started: the first one runs it, the others help it to train."""
    from edgekit.train import launch

    need("torch", extra="compress", purpose=launch.PURPOSE)
    from edgekit.train import crew, together

    launch.interruptible()
    launch.enrol(int(os.environ["RANK"]))

    def alone(error: EdgekitError) -> None:
        """Say what the first process cannot, and end this one or have all of them ended."""
        click.echo(terminal.lines(f"edgekit: rank {mine.rank} of {mine.size}: {error}"), err=True)
        if code := launch.leave(error.exit_code):
            os._exit(code)

    with crew.joined(timeout) as mine:
        if mine.rank:
            try:
                together.follow(mine, alone)
            except (crew.Lost, KeyboardInterrupt):  # the first process says so, unless it is what was lost
                sys.exit(1)
            return
        code = 0
        with together.leading(mine):
            try:
                _go("train", **flags)
            except SystemExit as ending:
                code = int(ending.code or 0)
                if code == launch.INTERRUPTED:
                    raise
    again = type(mine.lost) is crew.Lost  # torchrun starts all processes again if one exits with another code than 0
    sys.exit(code if again else launch.leave(code))


def _without(option: str, words: Sequence[str]) -> list[str]:
    """A command line without an option that has a value."""
    places = {place for place, word in enumerate(words) if word == option}
    skipped = places | {place + 1 for place in places}
    return [word for place, word in enumerate(words) if place not in skipped and not word.startswith(f"{option}=")]


@click.command(no_args_is_help=True)
@options
def prune(**flags: Any) -> None:
    """Run the stages data, train and prune.

    \b
    Examples:
      edgekit prune digits --set prune.macs=0.5
      edgekit prune digits --set prune.latency=0.6 --device host
    """
    _go("prune", **flags)


@click.command(no_args_is_help=True)
@options
def compress(**flags: Any) -> None:
    """Run the stages up to the bundle, without measuring.

    \b
    Example:
      edgekit compress runs/digits --set quantize.range=mse
    """
    _go("bundle", **flags)


@click.command(no_args_is_help=True)
@partial(options, target="RECIPE|RUN|BUNDLE", out="Where to write. [runs/<recipe>, profiles/<bundle>]")
@click.option("--sustained", metavar="TIME", help="Then run each file continuously for this long, e.g. 10m.")
@click.option("--again", is_flag=True, help="Measure again, even what was measured before.")
@_strict
def profile(sustained: str | None, again: bool, overrides: tuple[str, ...], **flags: Any) -> None:
    """Re-run changed stages, then measure latency.

    BUNDLE is an .edgekit file or a hand-written manifest (.json): its models are measured on each device (this machine
    if none is named), its golden vectors are replayed there, and the reports are written.

    \b
    Examples:
      edgekit profile runs/digits --device host
      edgekit profile runs/digits --again
      edgekit profile runs/digits --device raspberry-pi-5 --sustained 10m
      edgekit profile digits.edgekit --device host --device my-pi.toml
    """
    more = () if sustained is None else (f"profile.sustained={sustained}",)
    _go("profile", overrides=(*overrides, *more), again=again, **flags)


@click.command(no_args_is_help=True)
@options
@_strict
def report(**flags: Any) -> None:
    """Write the reports: HTML, Markdown, JSON and CSV.

    \b
    Examples:
      edgekit report runs/digits
      edgekit report runs/digits --json
      edgekit report compare runs/old runs/new
    """
    _go("report", **flags)


def _go(
    last: str,
    target: str,
    overrides: tuple[str, ...],
    out: Path | None,
    devices: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    debug: bool,
    again: bool = False,
    strict: bool = False,
) -> None:
    def work() -> None:
        need("pydantic", extra="compress", purpose="reading recipes")
        from edgekit.console import Console
        from edgekit.pipeline import bundled
        from edgekit.pipeline import run as pipeline

        with apart():  # a network of the user's may print
            if last == "profile" and bundled.matches(target):
                outcome = _profiled(target, overrides, out, devices, Console(quiet), again)
            else:
                job = replace(job_of(target, overrides, out, devices), again=again)
                outcome = pipeline.run(job, Console(quiet), last)
        click.echo(json.dumps(_as_dict(outcome), indent=2) if as_json else terminal.lines(_summary(outcome, last)))
        if outcome.lost:
            raise Shortfall(_missing(outcome.lost))
        if strict:
            _certain(outcome, "the same command with" if last == "profile" else f"edgekit profile {outcome.out}")

    guarded(work, debug)


def _certain(outcome: Outcome, again: str) -> None:
    """For ``--strict``; `again` is the command that measures once more, without its option ``--again``."""
    from edgekit.cli import _results

    if doubtful := _results.undecided(outcome):
        words = [f"{device}: {why}" for device, why in doubtful.items()]
        words.append(f"measure again when the machine is idle: {again} --again")
        raise Shortfall("\n  ".join(words))


def job_of(target: str, overrides: tuple[str, ...], out: Path | None, names: tuple[str, ...]) -> Job:
    """What a recipe or a run directory, --set, --out and --device ask for."""
    from edgekit.config import recipe, recipe_file, shipped
    from edgekit.pipeline import run as pipeline

    folder = Path(target)
    if folder.suffix == ".edgekit" and not folder.is_dir():
        raise InputError(
            f"{target}: is a bundle, which is already built; edgekit profile, inspect and predict accept one"
        )
    if (folder / "recipe.json").is_file():
        loaded, base = recipe_file.resume(folder / "recipe.json", overrides)
        out = out or folder
    elif folder.is_dir() and target not in shipped.files("recipes"):
        raise InputError(f"{target}: is neither a recipe nor a run directory (it has no recipe.json)")
    else:
        path = shipped.find("recipes", target)
        loaded, base = recipe_file.load(path, overrides), path.resolve().parent
    if names:  # same as profile.devices, and recorded with it
        chosen = [str(Path(name).resolve()) if shipped.is_path(name) else name for name in names]
        section = loaded.profile or recipe.ProfileSection()
        loaded = loaded.model_copy(update={"profile": section.model_copy(update={"devices": chosen})})
    devices = _devices(loaded.profile, base) if loaded.profile else {}
    return pipeline.Job(loaded, base, out or Path("runs") / loaded.name, devices)


def _devices(section: ProfileSection, base: Path | None) -> dict[str, Device]:
    """The devices of a [profile] section by name; relative paths start from `base`."""
    from edgekit.config import shipped
    from edgekit.device import file as device_file

    devices: dict[str, Device] = {}
    for name in section.devices:
        path = shipped.find("devices", name, base)
        each = device_file.load(path)
        if each.name in devices:
            raise InputError(f'{path}: another device in this run is also called "{each.name}"; give each its own name')
        limits = each.limits.model_copy(update={"ship_by": each.limits.ship_by or section.ship_by})
        each = each.model_copy(update={"limits": limits})
        if section.sustained is not None:
            run = each.run.model_copy(update={"sustained": section.sustained})
            each = each.model_copy(update={"run": run})
        devices[each.name] = each
    return devices


def _profiled(
    target: str, overrides: tuple[str, ...], out: Path | None, names: tuple[str, ...], console: Console, again: bool
) -> Outcome:
    from edgekit.config import recipe_file
    from edgekit.pipeline import bundled

    section = recipe_file.profile_section(
        overrides, ("operators", "sustained", "ship_by"), "the models of a bundle are already built"
    )
    section = section.model_copy(update={"devices": list(names) or section.devices})
    return bundled.profile(Path(target), _devices(section, None), console, out, section.operators, again)


def _summary(outcome: Outcome, last: str) -> str:
    """What the command was for: the network after training, the files after compression, their times, the verdict."""
    from edgekit.cli import _results

    last_table = {"train": _results.network, "prune": _results.network, "bundle": _results.files}
    lines = [last_table.get(last, _results.latency)(outcome.results)]
    lines += [f"{verdict.device}: {verdict.reason}" for verdict in outcome.verdict]
    if not outcome.verdict:
        lines += [f"warning: {device}: {why}" for device, why in _results.undecided(outcome).items()]
    lines += [f"warning: {text}" for text in outcome.warnings]
    if outcome.bundle:
        lines.append(f"bundle: {outcome.bundle}")
    lines.append(f"report: {outcome.report / 'report.html'}" if outcome.report else f"run directory: {outcome.out}")
    return "\n".join(line for line in lines if line)


def _missing(lost: Sequence[Failure]) -> str:
    """What was not measured, one line per device."""
    reasons: dict[str, list[str]] = {}
    for failure in lost:
        reasons.setdefault(failure.device, []).append(failure.reason)
    lines = [f"{device}: {len(all_)} not measured: {all_[0]}" for device, all_ in reasons.items()]
    return "\n  ".join(lines) + "; run the same command again to measure what is missing"


def _as_dict(outcome: Outcome) -> dict[str, Any]:
    from dataclasses import asdict

    from edgekit.cli import _results

    return {
        "run": str(outcome.out),
        "stages": [asdict(stage) for stage in outcome.stages],
        "verdict": [asdict(verdict) for verdict in outcome.verdict],
        "bundle": str(outcome.bundle) if outcome.bundle else None,
        "report": str(outcome.report / "report.json") if outcome.report else None,
        "warnings": list(outcome.warnings),
        "undecided": list(_results.undecided(outcome)),
        **outcome.results.as_dict(),
    }


COMMANDS = (run, train, prune, compress, profile, report)
