"""Reading back a ``report.json`` of any edgekit version; one that is not understood is refused in one line."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from edgekit.disk.run_directory import RECORD, RunDirectory
from edgekit.errors import InputError
from edgekit.measurements import Failure, Machine, Timing
from edgekit.scores import Accuracy
from edgekit.types import Artifact

VERSION = 1
"""Schema version of `edgekit.report.contents.Report`. Keys added later have defaults, so every version 1 file reads."""


@dataclass(frozen=True)
class Results:
    """The part of a report that can be compared."""

    schema_version: int
    name: str
    created: str
    edgekit_version: str
    artifacts: tuple[Artifact, ...]
    accuracy: tuple[Accuracy, ...]
    latency: tuple[Timing, ...]
    failures: tuple[Failure, ...]
    machines: dict[str, Machine]
    recipe: dict[str, Any] = field(default_factory=dict)

    @property
    def subject(self) -> dict[str, str]:
        """The network and the data set, in words; a report on a bundle may not know them."""
        known = {}
        for what, keys in (("model", ("name",)), ("data", ("source", "name", "path"))):
            section = self.recipe.get(what)
            if isinstance(section, dict) and any(section.get(key) for key in keys):
                known[what] = " ".join(str(section[key]) for key in keys if section.get(key))
        return known


def results(path: Path) -> Results:
    """Read a ``report.json``, or the one in a run directory.

    Raises:
        InputError: no such file, not a report, or one of another schema version.
    """
    file = find(path)
    try:
        document: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not JSON: {error}"
        raise InputError(f"{file}: cannot be read as a report: {reason}") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version is None:
        raise InputError(
            f"{file}: not an edgekit report (it has no schema_version); give a run directory or report.json"
        )
    if type(version) is not int or version != VERSION:
        by = document.get("edgekit_version", "unknown")
        raise InputError(
            f"{file}: written by edgekit {by} with schema version {version}, but this edgekit reads version {VERSION}; "
            "write the report again, or compare with the edgekit that wrote it"
        )
    try:
        read = _adapter().validate_python(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{file}: not a valid edgekit report: {where}: {first['msg']}") from error
    for i, timing in enumerate(read.latency):
        problem = _problem(timing)
        if problem:
            raise InputError(f"{file}: not a valid edgekit report: latency.{i}.{problem}")
    return read


@cache
def _adapter() -> TypeAdapter[Results]:
    return TypeAdapter(Results)


def _problem(t: Timing) -> str:
    """What makes a timing unusable, if anything."""
    for name, values in (("p50_ms", (t.p50_ms,)), ("samples", t.samples)):
        if not all(0 < value < math.inf for value in values):
            return f"{name}: times must be positive and finite"
    if t.round_sizes and (min(t.round_sizes) < 0 or sum(t.round_sizes) != len(t.samples)):
        return f"round_sizes: {sum(t.round_sizes)} in total, but there are {len(t.samples)} samples"
    return ""


def find(path: Path) -> Path:
    """The ``report.json`` that a path refers to: the file itself, or the one in a run directory or a report's folder.

    Raises:
        InputError: there is none.
    """
    if path.is_file():
        return path
    for folder in (RunDirectory(path).folder("report"), path):
        if (folder / "report.json").is_file():
            return folder / "report.json"
    if not path.exists():
        raise InputError(f"{path}: no such file or directory; give a run directory or a report.json")
    hint = "its report stage has not run: edgekit report" if any(path.glob(f"*/{RECORD}")) else "not a run directory"
    raise InputError(f"{path}: contains no report.json ({hint})")
