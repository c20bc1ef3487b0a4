"""What the commands share. Heavy imports stay inside the bodies, so that ``--help`` is fast."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from edgekit.cli import _complete, _interrupted
from edgekit.errors import EdgekitError, need
from edgekit.runtime import terminal
from edgekit.runtime.errors import RuntimeFault

as_json = click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
quieted = click.option("--quiet", "-q", is_flag=True, help="Show no progress on stderr.")
overridden = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    shell_complete=_complete.override,
    help="Override a key of the recipe: section.key=value; without a value, its default.",
)
debugged = click.option("--debug", is_flag=True, help="Show tracebacks.")


class Group(click.Group):
    """Suggests a near match for an unknown command; lists commands in the order of the pipeline."""

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

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; words of the command line that click complains about are shown as plain text."""
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            error.message = terminal.lines(error.message)  # type: ignore[misc]
            raise
        except KeyboardInterrupt:  # click would say "Aborted!"
            _interrupted.stop()


def percentage(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """``5%`` as 0.05."""
    if value is None:
        return None
    if not re.fullmatch(r"\d+(\.\d+)? ?%", value):
        raise click.BadParameter(f'"{value}" is not a percentage; write it like 5%')
    return float(value.rstrip("% ")) / 100


def guarded(work: Callable[[], None], debug: bool) -> None:
    """Run a command's body; every error becomes one line and an exit code, after a traceback if `debug`."""
    if not debug:
        logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # torchao's deprecations are not the user's
    try:
        work()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (Exception, KeyboardInterrupt) as error:  # the outermost frame: nobody above could say it better
        if debug:
            sys.stderr.write(terminal.lines(traceback.format_exc()))
        if isinstance(error, KeyboardInterrupt):
            _interrupted.stop()
        _stop(*_ending(error))


def _ending(error: Exception) -> tuple[str, int]:
    """What to say of an error, in one line, and the exit code."""
    if isinstance(error, EdgekitError):
        return str(error), error.exit_code
    if isinstance(error, RuntimeFault):
        return str(error), 1
    if isinstance(error, OSError):
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"{where}the disk is full ({error.strerror}); free some space and run the same command again", 1
        if where and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            return f"{where}{error.strerror}; give another place, or change its permissions", 2
    reason = (str(error).strip() or "no message").splitlines()[0]
    return f"unexpected {type(error).__name__}: {reason}; run again with --debug for the traceback", 1


@contextmanager
def apart() -> Iterator[None]:
    """Send what others print to stderr, native code and child processes included: stdout is for results alone."""
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(saved, 1)
        os.close(saved)


def _stop(message: str, code: int) -> NoReturn:
    click.echo(f"edgekit: {terminal.lines(message)}", err=True)
    sys.exit(code)


def print_list(kind: Any, as_json: bool) -> None:
    """List the recipes or devices that come with edgekit."""
    import tomllib

    from edgekit.config import shipped

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


def print_schema(module: str) -> None:
    """Print the JSON schema of the file that a module reads."""
    import importlib

    need("pydantic", extra="compress", purpose="printing a schema")
    click.echo(json.dumps(importlib.import_module(module).schema(), indent=2))
