"""Where the time goes on each device: the operators of what is fastest there, quantized and in float."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from edgekit import __version__, choices, verdict
from edgekit.console import Advance, Console
from edgekit.device import Device
from edgekit.errors import Shortfall
from edgekit.measurements import Failure, OperatorProfile, Profile, Timing
from edgekit.profile import operators
from edgekit.profile._fleet import Fleet
from edgekit.profile._keep import Keep
from edgekit.profile._worker import WorkerFault
from edgekit.types import Artifact


def find(
    artifacts: Sequence[Artifact],
    folder: Path,
    devices: Mapping[str, Device],
    measured: Profile,
    console: Console,
    keep: Path | None = None,
) -> tuple[list[OperatorProfile], list[Failure]]:
    """Profile the operators of `edgekit.verdict.contenders` on each device, all devices at once, each under its lock.

    A device that is not timed (emulated), or was not reached before, is left out.

    Args:
        artifacts: the exported files.
        folder: where they are.
        devices: by the name that results carry; `RunSection.seconds` is how long each file takes, loading apart.
        measured: what they were timed at.
        console: progress.
        keep: folder of results, as in `edgekit.profile.run.profile`.

    Returns:
        Profiles, the fastest file of a device first; and what could not be profiled.
    """
    kept, fleet = Keep(keep), Fleet()
    by_id = {artifact.id: artifact for artifact in artifacts}
    wanted = {name: _timed(verdict.contenders(name, artifacts, measured.timings)) for name in devices}
    found: dict[str, list[OperatorProfile | Failure]] = {name: [] for name in devices}

    def one(device: Device, timing: Timing, facts: Mapping[str, Any]) -> OperatorProfile:
        artifact, provider = by_id[timing.artifact], device.run.provider(timing.engine)
        key = {
            "operators": [__version__, artifact.sha256, timing.engine, facts.get("engines", {}).get(timing.engine)],
            "run": [timing.threads, provider, device.run.seconds],
            "device": [timing.device, device.reach.model_dump(exclude={"timeout"})],
            "machine": asdict(measured.machines[timing.device]),
        }
        profile = kept.find(key, OperatorProfile)
        if profile is None:
            reach = choices.pick("edgekit.reach", device.reach.by, f"{timing.device}: reach.by")
            file = fleet.send(reach, folder / artifact.path, device)
            with fleet.worker(reach, operators.ARGV, device) as worker:
                run = timing.engine, timing.threads, device.run.seconds, timing.device, provider
                profile = operators.ask(worker, file, artifact.id, *run)
            kept.add(key, profile)
        return profile

    def visit(name: str, device: Device, advance: Advance) -> None:
        reach, left = choices.pick("edgekit.reach", device.reach.by, f"{name}: reach.by"), list(wanted[name])
        try:
            with fleet.machine(name, reach, device, console) as facts:
                while left:
                    try:
                        found[name].append(one(device, left[0], facts))
                    except WorkerFault as fault:
                        found[name].append(_failure(left[0], str(fault), fault.lost))
                    advance(1, f"{left.pop(0).artifact} on {name}")
        except Shortfall as trouble:
            found[name] += [_failure(timing, str(trouble), True) for timing in left]

    with console.bar("operators on the devices", sum(map(len, wanted.values()))) as advance:
        fleet.each([partial(visit, name, device, advance) for name, device in devices.items() if wanted[name]])
    if set(devices) <= set(measured.machines):  # else: what is kept of a device that is down serves another time
        kept.tidy()
    every = [each for name in devices for each in found[name]]
    return [e for e in every if isinstance(e, OperatorProfile)], [e for e in every if isinstance(e, Failure)]


def _timed(rows: Sequence[Timing]) -> list[Timing]:
    return [row for row in rows if row.kind == "measured"]


def _failure(timing: Timing, reason: str, lost: bool) -> Failure:
    return Failure(timing.artifact, timing.engine, timing.device, timing.threads, f"operators: {reason}", lost)
