"""The profile stage: latency, load time and peak memory of every artifact on every device.

One process per artifact x engine x threads; all that fit into memory are opened first, then measured one at a time in
rounds, each round in another (seeded) order, so that drift of the machine hits all of them alike.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import sleep
from types import ModuleType
from typing import Any

from edgekit import choices
from edgekit.console import Advance, Console
from edgekit.device import Device
from edgekit.errors import InputError, Shortfall
from edgekit.profile import _stats
from edgekit.profile._worker import Worker, WorkerFault
from edgekit.runtime import _menu
from edgekit.types import Artifact, Failure, Machine, Profile, Timing

SEED = 0
MIN_SAMPLES = 3
"""Of each round, however slow the model is."""
OPEN_TIMEOUT = 180.0
RUN_TIMEOUT = 60.0
"""Seconds, beyond what the round is expected to take."""


@dataclass
class _Job:
    """One artifact x engine x threads on its way to a `Timing` or a `Failure`."""

    artifact: Artifact
    engine: str
    threads: int
    worker: Worker | None = None
    ready: dict[str, Any] = field(default_factory=dict)
    samples: list[float] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)
    rss_bytes: int = 0
    reason: str = ""


def profile(artifacts: Sequence[Artifact], folder: Path, devices: Mapping[str, Device], console: Console) -> Profile:
    """Measure every artifact with every engine of each device that runs its format, at each thread count.

    `RunSection.warmup` inferences that do not count precede each round, as other models ran in between.

    Args:
        artifacts: what to measure.
        folder: where the artifacts' files are.
        devices: by the name that results carry.
        console: progress.

    Returns:
        Timings and, for what could not be measured, failures with the reason, both in the order
        device, artifact, engine, threads.

    Raises:
        InputError: a device file states another architecture than the machine has.
        Shortfall: nothing at all could be measured on a device.
    """
    machines: dict[str, Machine] = {}
    timings: list[Timing] = []
    failures: list[Failure] = []
    for name, device in devices.items():
        reach = choices.pick("edgekit.reach", device.reach.by, f"{name}: reach.by")
        machines[name] = _machine(reach, name, device)
        jobs = [
            _Job(artifact, engine, threads)
            for artifact in artifacts
            for engine in device.run.engines
            if artifact.format == _menu.engine(engine).FORMAT
            for threads in device.run.threads
        ]
        with console.bar(f"measuring on {name}", len(jobs) * (device.run.rounds + 1)) as advance:
            waiting = [job for job in jobs if _fits(job, machines[name])]
            while waiting:
                waiting = _measure(waiting, folder, reach, device, advance)
        for job in jobs:
            if job.reason:
                failures.append(Failure(job.artifact.id, job.engine, name, job.threads, job.reason))
            else:
                timings.append(_timing(job, name, device))
        if all(job.reason for job in jobs):
            raise Shortfall(f"{name}: nothing was measured: {_why(jobs, device, artifacts)}")
    return Profile(machines, tuple(timings), tuple(failures))


def _machine(reach: ModuleType, name: str, device: Device) -> Machine:
    with Worker(reach.start(["-m", "edgekit.runtime.machine"], device)) as worker:
        try:
            facts = worker.listen(OPEN_TIMEOUT)
        except WorkerFault as fault:
            raise Shortfall(f"{name}: cannot be reached by {device.reach.by}: {fault}") from None
    machine = Machine(**{**facts, "features": tuple(facts["features"])})
    if device.arch not in ("any", machine.arch):
        raise InputError(
            f'{name}: the device file says arch = "{device.arch}", but the machine reached by "{device.reach.by}" '
            f"is {machine.arch}; correct arch, or reach.by"
        )
    return machine


def _fits(job: _Job, machine: Machine) -> bool:
    if job.threads > machine.cores:
        job.reason = f"{job.threads} threads asked for, but only {machine.cores} cores can be used"
    return not job.reason


def _measure(jobs: list[_Job], folder: Path, reach: ModuleType, device: Device, advance: Advance) -> list[_Job]:
    """Fill in the jobs: samples, or the reason why there are none. Returns those that memory has no room for yet."""
    plan, shuffle = device.run, random.Random(SEED).shuffle  # noqa: S311
    with ExitStack() as stack:
        opened = _open(jobs, folder, reach, device, advance, stack)
        for _ in range(plan.rounds):
            order = [job for job in opened if not job.reason]
            if not order:
                break
            shuffle(order)
            sleep(plan.cooldown)
            for job in order:
                _run(job, device)
                advance(1, _title(job))
        for job in opened:
            if not job.reason:
                job.rss_bytes = _ask(job, {"stop": True}, OPEN_TIMEOUT).get("rss_bytes", 0)
    return jobs[len(opened) :]


def _open(
    jobs: list[_Job], folder: Path, reach: ModuleType, device: Device, advance: Advance, stack: ExitStack
) -> list[_Job]:
    """Start the workers of as many jobs as fit into memory together, of one at least."""
    opened: list[_Job] = []
    largest = 0
    for job in jobs:
        job.worker = stack.enter_context(Worker(reach.start(["-m", "edgekit.runtime.bench"], device)))
        request = {
            "model": str((folder / job.artifact.path).resolve()),
            "engine": job.engine,
            "threads": job.threads,
            "provider": None,
            "seed": SEED,
        }
        job.ready = _ask(job, request, OPEN_TIMEOUT)
        opened.append(job)
        advance(1, _title(job))
        largest = max(largest, job.ready.get("rss_bytes", 0))
        available = job.ready.get("available_bytes")
        if available is not None and available < 2 * largest:
            break
    return opened


def _run(job: _Job, device: Device) -> None:
    plan = device.run
    seconds = plan.seconds / plan.rounds
    slow = 10 * (plan.warmup + MIN_SAMPLES) * job.ready["first_ms"] / 1000
    request = {"run": {"warmup": plan.warmup, "seconds": seconds, "min_samples": MIN_SAMPLES}}
    answer = _ask(job, request, RUN_TIMEOUT + seconds + slow)
    if answer:
        job.samples += answer["ms"]
        job.loads.append(answer["load_average"] or 0.0)


def _ask(job: _Job, request: dict[str, Any], timeout: float) -> dict[str, Any]:
    """The worker's answer; empty, and the job's reason set, where there is none."""
    assert job.worker is not None
    try:
        return job.worker.ask(request, timeout)
    except WorkerFault as fault:
        job.reason = str(fault)
        job.worker.close()  # one that hangs must not slow the others
        return {}


def _title(job: _Job) -> str:
    return f"{job.artifact.id} on {job.engine}"


def _timing(job: _Job, name: str, device: Device) -> Timing:
    return Timing(
        artifact=job.artifact.id,
        engine=job.engine,
        engine_version=job.ready["version"],
        provider=job.ready["provider"],
        device=name,
        threads=job.threads,
        batch=job.ready["batch"],
        kind="measured",
        load_ms=job.ready["load_ms"],
        first_ms=job.ready["first_ms"],
        warmup=device.run.warmup,
        rounds=device.run.rounds,
        rss_bytes=job.rss_bytes,
        load_average=max(job.loads),
        samples=tuple(job.samples),
        **_stats.summary(job.samples),
    )


def _why(jobs: list[_Job], device: Device, artifacts: Sequence[Artifact]) -> str:
    if not artifacts:
        return "there are no artifacts"
    if not jobs:
        formats = ", ".join(sorted({artifact.format for artifact in artifacts}))
        return f"none of its engines ({', '.join(device.run.engines)}) runs {formats} files"
    return "; ".join(dict.fromkeys(job.reason for job in jobs))
