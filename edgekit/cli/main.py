"""The ``edgekit`` command."""

from __future__ import annotations

import codecs
import io
import os
import sys

import click

from edgekit import __version__
from edgekit.cli import (
    bundle,
    compare,
    data,
    devices,
    doctor,
    explain,
    find_lr,
    fit,
    inspect,
    recipes,
    run,
    sweep,
    tune,
)
from edgekit.cli._common import Group
from edgekit.runtime.terminal import Plain


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edgekit")
def cli() -> None:
    """Train, compress, verify and measure vision models for edge devices.

    \b
    Examples:
      edgekit run digits                        run the whole pipeline on a small recipe
      edgekit run my.toml --set train.epochs=2  override any key of a recipe
      edgekit profile runs/my --device host     measure what an earlier run exported
      edgekit doctor                            show what is installed and what is missing
    """


_MODULES = (run, data, find_lr, fit, sweep, tune, explain, compare, bundle, inspect, recipes, devices, doctor)
for _module in _MODULES:
    for _command in _module.COMMANDS:
        cli.add_command(_command)


def main() -> None:
    """Entry point. What it prints is plain text, whatever names in files and on devices hold."""
    # Before torch is loaded: threads that spin while they wait take the cores of other programs, and of each other.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if isinstance(sys.stdout, io.TextIOWrapper):
        ascii_ = codecs.lookup(sys.stdout.encoding).name == "ascii"  # click would write UTF-8, past this stream
        encoding, each_line = "utf-8" if ascii_ else sys.stdout.encoding, sys.stdout.line_buffering
        sys.stdout = Plain(sys.stdout.detach(), encoding, "backslashreplace", line_buffering=each_line)
    cli(prog_name="edgekit")
