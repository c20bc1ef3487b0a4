"""``report.json``: the whole report, including every raw sample, for programs."""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass
from typing import Any

from edgekit.report.contents import Report

SUFFIX = "json"


def render(report: Report) -> str:
    """The report as JSON text; ``edgekit.report._schema.schema()`` describes it.

    JSON has no NaN and no infinity: such a number (the SQNR of two equal outputs) becomes null. A list of plain values
    stays on one line, so that samples and confusion matrices do not take one line per number.
    """
    return _lines(_plain(report), "") + "\n"


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        if set(map(type, value)) == {int}:  # a thousand classes make confusion matrices of a million numbers
            return value
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _lines(value: Any, margin: str) -> str:
    inner = margin + " "
    if isinstance(value, dict) and value:
        rows = [f"{json.dumps(key, ensure_ascii=False)}: {_lines(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(inner + row for row in rows) + f"\n{margin}}}"
    if isinstance(value, list) and any(isinstance(item, dict | list | tuple) for item in value):
        return "[\n" + ",\n".join(inner + _lines(item, inner) for item in value) + f"\n{margin}]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ": "))
