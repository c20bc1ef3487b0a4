"""Measured p50 of an inference on each device, in the file and engine that are fastest there."""

from pathlib import Path

from edgekit.errors import InputError
from edgekit.pipeline.results import Results
from edgekit.report.svg import threads
from edgekit.tune.objectives import _files
from edgekit.tune.port import Asked, Value
from edgekit.tune.records import Unit

UNIT: Unit = "ms"
LARGEST = False


def names(asked: Asked) -> list[str]:
    """One for each device."""
    _files.check(asked, "latency")
    if not asked.devices:
        raise InputError(
            'tune.objective: "latency" needs a device to measure on: --device NAME, or a [profile] section'
        )
    return [f"latency on {device}" for device in asked.devices]


def stage(asked: Asked) -> str:
    """Measuring is the last one."""
    return "profile"


def values(asked: Asked, results: Results, run: Path) -> list[Value]:
    """Milliseconds."""
    rows = [_files.timing(asked, results, device) for device in asked.devices]
    return [
        Value(
            row.p50_ms,
            f"{row.kind} p50 of {row.artifact} in {row.engine} {row.engine_version}, {threads(row.threads)}, "
            f"on {row.device}",
        )
        for row in rows
    ]
