"""Where the time goes on each device: the operators of the fastest quantized and the fastest float file there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgekit import __version__
from edgekit.console import Console
from edgekit.device.file import Device
from edgekit.measurements import Failure, OperatorProfile, Profile, Timing
from edgekit.profile import operators
from edgekit.profile._fleet import Fleet
from edgekit.profile._result_cache import Keep
from edgekit.reach.port import way
from edgekit.types import Artifact
from edgekit.verdict import rule as verdict


def find(
    artifacts: Sequence[Artifact],
    folder: Path,
    devices: Mapping[str, Device],
    measured: Profile,
    console: Console,
    keep: Path | None = None,
) -> tuple[list[OperatorProfile], list[Failure]]:
    """Profile the operators of `edgekit.verdict.rule.contenders` on all devices in parallel, each under its lock.

    Devices that are not timed (emulated ones), or were not reached before, are left out.

    Args:
        artifacts: the exported files.
        folder: where they are.
        devices: by their name in results; `RunSection.seconds` is how long each file takes, without loading.
        measured: their timings.
        console: progress.
        keep: folder of results, as in `edgekit.profile.run.profile`.

    Returns:
        Profiles, the fastest file of each device first; and what could not be profiled.
    """
    kept, fleet = Keep(keep, __name__), Fleet()
    by_id = {artifact.id: artifact for artifact in artifacts}
    wanted = {name: _timed(verdict.contenders(name, artifacts, measured.timings)) for name in devices}

    def one(device: Device, timing: Timing, facts: Mapping[str, Any]) -> OperatorProfile:
        artifact, provider = by_id[timing.artifact], device.run.provider(timing.engine)
        key = {
            "operators": [__version__, artifact.id, artifact.sha256],
            "engine": [timing.engine, facts.get("engines", {}).get(timing.engine)],
            "run": [timing.threads, provider, device.run.seconds],
            "device": [timing.device, device.reach.model_dump(exclude={"timeout"})],
            "machine": asdict(measured.machines[timing.device]),
        }
        profile = kept.find(key, OperatorProfile)
        if profile is None:
            reach = way(device.reach.by, f"{timing.device}: reach.by")
            file = reach.send(folder / artifact.path, device)
            with fleet.worker(reach, operators.ARGV, device) as worker:
                run = timing.engine, timing.threads, device.run.seconds, timing.device, provider
                profile = operators.ask(worker, file, artifact.id, *run)
            kept.add(key, profile)
        return profile

    profiles, failures = fleet.rows("operators", devices, wanted, one, console)
    if set(devices) <= set(measured.machines):  # else keep what is known of a device that is down
        kept.tidy()
    return profiles, failures


def _timed(rows: Sequence[Timing]) -> list[Timing]:
    return [row for row in rows if row.kind == "measured"]
