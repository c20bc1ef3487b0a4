"""What the shell completes: shipped names and files, and the keys and values of ``--set``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, get_args, get_origin

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def shipped(kind: Literal["recipes", "devices"]) -> Complete:
    """The names of shipped recipes or devices; else, and in addition where nothing is typed yet, files."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from edgekit.config import shipped

        names = [CompletionItem(name) for name in shipped.files(kind) if name.startswith(incomplete)]
        return names if names and incomplete else [*names, CompletionItem(incomplete, type="file")]

    return complete


def override(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """``section.key=`` for ``--set``, and after it the values, if there are only some."""
    try:
        from edgekit.config.keys import keys
        from edgekit.config.recipe import Recipe
    except ModuleNotFoundError:  # pydantic comes with the extras
        return []
    key, equals, typed = incomplete.partition("=")
    rows = dict(keys(Recipe))
    if not equals:
        found = {name: field.description for name, field in rows.items() if name.startswith(key)}
        return [CompletionItem(f"{name}=", help=about) for name, about in found.items()]
    values = _values(rows[key]) if key in rows else []
    return [CompletionItem(f"{key}={value}") for value in values if value.startswith(typed)]


def _values(field: FieldInfo) -> list[str]:
    from edgekit import choices
    from edgekit.config.keys import kinds
    from edgekit.config.menu import Menu

    rules = [getattr(each, "func", None) for each in field.metadata]
    for menu in [rule for rule in rules if isinstance(rule, Menu)]:
        return list(choices.names(menu.folder))
    words = [str(word) for kind in kinds(field.annotation) if get_origin(kind) is Literal for word in get_args(kind)]
    return ["true", "false"] if bool in kinds(field.annotation) else words
