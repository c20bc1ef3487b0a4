"""``edgekit doctor``."""

from __future__ import annotations

import json

import click

from edgekit.cli import _common


@click.command()
@_common.as_json
def doctor(as_json: bool) -> None:
    """Show what is installed here and what is missing.

    \b
    Example:
      edgekit doctor --json
    """
    from edgekit.device import doctor as checks

    report = checks.report()
    click.echo(json.dumps(report, indent=2) if as_json else checks.render(report))


COMMANDS = (doctor,)
