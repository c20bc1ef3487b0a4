"""JSON schema of ``report.json``, generated from the dataclasses so that the two cannot diverge."""

from __future__ import annotations

import ast
import inspect
from typing import Any

from pydantic import TypeAdapter

from edgekit import measurements, scores, types
from edgekit.report import contents


def schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of schema version 1.

    Additional keys are allowed: a reader of version 1 must ignore what it does not know. The version rises when a key
    is removed or changes its meaning.
    """
    document = TypeAdapter(contents.Report).json_schema(mode="serialization")
    document["title"] = "edgekit report"
    for title, described in {**document["$defs"], "Report": document}.items():
        homes = [home for home in (contents, measurements, scores, types) if hasattr(home, title)]
        _describe(described, getattr(homes[0], title))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **document}


def _describe(described: dict[str, Any], cls: type) -> None:
    """Copy the docstrings of a dataclass's attributes into the schema as descriptions."""
    body = ast.parse(inspect.getsource(cls)).body[0]
    assert isinstance(body, ast.ClassDef)
    for line, following in zip(body.body, body.body[1:], strict=False):
        match line, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                described["properties"][name]["description"] = " ".join(text.split())
