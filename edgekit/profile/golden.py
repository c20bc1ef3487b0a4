"""Whether every engine on every device gives the outputs computed where the bundle was packed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from edgekit import __version__
from edgekit.console import Console
from edgekit.device.file import Device
from edgekit.measurements import Failure, Profile, Replay, Timing
from edgekit.profile._fleet import Fleet
from edgekit.profile._result_cache import Keep
from edgekit.reach.port import way
from edgekit.reach.worker import WorkerFault

ARGV = ("-m", "edgekit.runtime.replay")
TIMEOUT = 600.0
"""Seconds for the vectors of one file; emulators are slow."""
_Count = Annotated[int, Field(ge=0)]


class _Answer(TypedDict):
    """What `edgekit.runtime.replay` answers."""

    version: str
    provider: str
    vectors: _Count
    away: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    unit: str
    images: _Count
    problem: str


_ANSWER = TypeAdapter(_Answer)


def replay(
    bundle: Path, devices: Mapping[str, Device], measured: Profile, console: Console, keep: Path | None = None
) -> tuple[list[Replay], list[Failure]]:
    """Replay the golden vectors on all devices in parallel, each under its lock.

    Once for each file and engine that were timed or estimated there, with the fewest threads; why others do not run is
    reported already.

    Args:
        bundle: holds the golden vectors; it is sent to each device.
        devices: by their name in results.
        measured: what was timed on them.
        console: progress.
        keep: folder of results, as in `edgekit.profile.run.profile`. Vectors that do not match are replayed again.

    Returns:
        One row per device, file and engine, in that order; and what could not be replayed.
    """
    kept, fleet = Keep(keep, __name__), Fleet()
    digest = hashlib.sha256(bundle.read_bytes()).hexdigest()
    wanted = {name: _once(name, measured) for name in devices}

    def one(device: Device, timing: Timing, facts: Mapping[str, Any]) -> Replay:
        provider = device.run.provider(timing.engine)
        key = {
            "golden": [__version__, digest, timing.artifact],
            "engine": [timing.engine, facts.get("engines", {}).get(timing.engine)],
            "run": [timing.threads, provider],
            "device": [timing.device, device.reach.model_dump(exclude={"timeout"})],
            "machine": asdict(measured.machines[timing.device]),
        }
        row = kept.find(key, Replay)
        if row is None:
            reach = way(device.reach.by, f"{timing.device}: reach.by")
            request = {
                "bundle": reach.send(bundle, device),
                "artifact": timing.artifact,
                "engine": timing.engine,
                "threads": timing.threads,
                "provider": provider,
            }
            with fleet.worker(reach, ARGV, device) as worker:
                row = _row(timing, worker.ask(request, TIMEOUT))
            if not row.problem:
                kept.add(key, row)
        return row

    rows, failures = fleet.rows("golden", devices, wanted, one, console)
    if set(devices) <= set(measured.machines):  # else keep what is known of a device that is down
        kept.tidy()
    return rows, failures


def _once(device: str, measured: Profile) -> list[Timing]:
    """For each file and engine of a device, the timing with the fewest threads."""
    rows: dict[tuple[str, str], Timing] = {}
    for timing in measured.timings:
        if timing.device == device:
            key = timing.artifact, timing.engine
            rows[key] = min(rows.get(key, timing), timing, key=lambda row: row.threads)
    return list(rows.values())


def _row(timing: Timing, answer: dict[str, Any]) -> Replay:
    try:
        said = _ANSWER.validate_python(answer)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise WorkerFault(f"the replaying process answered {where}: {first['msg'].lower()}") from None
    return Replay(
        artifact=timing.artifact,
        engine=timing.engine,
        engine_version=said["version"],
        provider=said["provider"],
        device=timing.device,
        vectors=said["vectors"],
        away=said["away"],
        unit=said["unit"],
        images=said["images"],
        problem=" ".join(said["problem"].split()),
    )
