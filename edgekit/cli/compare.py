"""The command that compares reports: ``edgekit compare``, also known as ``edgekit report compare``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgekit.cli._common import as_json, debugged, guarded, percentage


@click.command()
@click.option(
    "--fail-on", callback=percentage, metavar="PERCENT", help="Exit 1 on a significant regression above this."
)
@click.option("--strict", is_flag=True, help="Exit 1 if times are too uncertain to tell whether a row has changed.")
@as_json
@click.option("--markdown", "as_markdown", is_flag=True, help="Print as Markdown, for a pull request.")
@debugged
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
def compare(
    old: Path, new: Path, fail_on: float | None, strict: bool, as_json: bool, as_markdown: bool, debug: bool
) -> None:
    """Show what changed between two reports.

    OLD and NEW are run directories or report.json files. A change is marked only where its confidence interval
    supports it; a row is "unclear" where the interval is so wide that it could hide one. Rows that differ in engine
    version, machine, governor or threads come with a warning; measured times are never compared with estimated ones.
    `edgekit report compare` is the same.

    \b
    Examples:
      edgekit compare runs/main runs/branch
      edgekit report compare old.json new.json --fail-on 5% --markdown
    """
    from edgekit.errors import InputError, Shortfall, need

    def work() -> None:
        if as_json and as_markdown:
            raise InputError("--json and --markdown cannot be used together; give one of them")
        need("pydantic", extra="compress", purpose="reading reports")
        from edgekit.report import comparison, comparison_text, reader

        differences = comparison.compare(reader.results(old), reader.results(new))
        if as_json:
            click.echo(json.dumps(comparison.as_dict(differences, fail_on), indent=2))
        else:
            click.echo((comparison_text.markdown if as_markdown else comparison_text.plain)(differences, fail_on))
        if fail_on is not None and differences.regressions(fail_on):
            raise Shortfall(comparison_text.verdict(differences, fail_on))
        if strict and differences.unclear:
            raise Shortfall(comparison_text.doubt(differences))

    guarded(work, debug)


COMMANDS = (compare,)
