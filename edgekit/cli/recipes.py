"""``edgekit recipes``: the shipped recipes, and the schema of recipes."""

from __future__ import annotations

import click

from edgekit.cli import _common


@click.group(cls=_common.Group, invoke_without_command=True)
@_common.as_json
@click.pass_context
def recipes(ctx: click.Context, as_json: bool) -> None:
    """List the shipped recipes.

    \b
    Examples:
      edgekit recipes
      edgekit recipes schema > recipe.schema.json
    """
    if ctx.invoked_subcommand is None:
        _common.print_list("recipes", as_json)


@recipes.command("list")
@_common.as_json
def list_recipes(as_json: bool) -> None:
    """List the shipped recipes, as `edgekit recipes` does.

    \b
    Example:
      edgekit recipes list --json
    """
    _common.print_list("recipes", as_json)


@recipes.command("schema")
def recipes_schema() -> None:
    """Print the JSON schema of recipes, for editors.

    \b
    Example:
      edgekit recipes schema > recipe.schema.json
    """
    _common.guarded(lambda: _common.print_schema("edgekit.config.recipe"), debug=False)


COMMANDS = (recipes,)
