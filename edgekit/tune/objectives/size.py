"""Bytes of the file."""

from pathlib import Path

from edgekit.pipeline.results import Results
from edgekit.tune.objectives import _files
from edgekit.tune.port import Asked, Value
from edgekit.tune.records import Unit

UNIT: Unit = "bytes"
LARGEST = False


def names(asked: Asked) -> list[str]:
    """One."""
    _files.check(asked, "size")
    return ["size"]


def stage(asked: Asked) -> str:
    """The files have to be written."""
    return "export"


def values(asked: Asked, results: Results, run: Path) -> list[Value]:
    """Of the file that is timed, too; of the smallest one if none is timed."""
    file = _files.artifact(asked, results)
    return [Value(float(file.bytes), file.id)]
