"""The profile stage: latency, load time and peak memory of every artifact on every device.

All devices at once, one thread each; what is measured on a device is measured alone there, under that machine's lock
(`edgekit.runtime.machine`). One process per artifact, engine, thread count and batch; all that fit into memory are
opened first, then measured one at a time in rounds, each round in a different (seeded) order, so that drift of the
machine affects all of them alike. `edgekit.profile.protocol` has the details.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

from pydantic import TypeAdapter, ValidationError

from edgekit import __version__
from edgekit.console import Advance, Console
from edgekit.device.file import Device, format_of
from edgekit.errors import InputError, Shortfall, Unreached
from edgekit.measurements import Failure, Machine, Profile, Timing
from edgekit.profile import _estimate, protocol
from edgekit.profile._fleet import Fleet
from edgekit.profile._result_cache import Keep
from edgekit.profile.job import MINUTE, GoldenImages, MeasuringJob, ModelFile
from edgekit.profile.torch_reference import ABSENT, TorchProgram
from edgekit.reach.port import Reach, way
from edgekit.reach.remote import Refused
from edgekit.reach.worker import Worker

SEED = 0
SPREAD = 2
"""Rounds start at least this many times a row's time apart: disturbances last, and must not affect every round."""
REPEATS = 2
"""How often rows that are too uncertain are measured again, as long as before: three times the seconds in all."""
Doubts = Callable[[Sequence[Timing]], Sequence[Timing]]
"""Of the timings of one device, those that are too uncertain to tell what one wants to know."""


@dataclass(frozen=True)
class _Plan:
    """What all devices share."""

    artifacts: Sequence[ModelFile]
    folder: Path
    kept: Keep
    fleet: Fleet
    golden: GoldenImages | None
    minute: float
    doubts: Doubts


@dataclass
class _Target:
    """One device and its jobs."""

    name: str
    device: Device
    reach: Reach
    jobs: list[MeasuringJob] = field(default_factory=list)
    machine: Machine | None = None
    trouble: str = ""
    """Why it could not be reached."""


def profile(
    artifacts: Sequence[ModelFile],
    folder: Path,
    devices: Mapping[str, Device],
    console: Console,
    keep: Path | None = None,
    bundle: Path | None = None,
    minute: float = MINUTE,
    reference: Path | None = None,
    doubts: Doubts = lambda timings: (),
) -> Profile:
    """Measure every artifact with every engine of each device that runs its format, at each thread count and batch.

    `edgekit.profile.protocol` says how.

    Args:
        artifacts: what to measure.
        folder: where the artifacts' files are.
        devices: by their name in results.
        console: progress.
        keep: folder of results. What an earlier call left there for the same file, engine, settings and machine is
            not measured again; new results are added; all others are removed.
        bundle: whose golden images are predicted end to end; None leaves that out.
        minute: seconds covered by each row of a sustained measurement.
        reference: the float network as an exported program (`edgekit.profile.torch_reference`), for devices with the
            engine ``torch_cuda``. It gets rows like the artifacts, marked so that it is never shipped.
        doubts: rows that it names get further rounds, up to `REPEATS` times as many as they had. Rows that were
            measured by an earlier call keep what they have.

    Returns:
        Timings and, for what could not be measured, failures with the reason, both in the order
        device, artifact, engine, threads, batch. A device that was not reached has no machine.

    Raises:
        InputError: a device file states an architecture that is not the machine's.
        Shortfall: no artifact could be measured on any device, or the bundle is damaged.
    """
    kept, fleet = Keep(keep, __name__), Fleet()
    golden = GoldenImages.of(bundle) if bundle else None
    torch = TorchProgram(str(reference.resolve()) if reference else "")
    plan = _Plan((*artifacts, torch), folder, kept, fleet, golden, minute, doubts)
    targets = [_Target(name, device, way(device.reach.by, f"{name}: reach.by")) for name, device in devices.items()]
    for target in targets:
        target.jobs = _jobs(plan.artifacts, target.device, 1)
    steps = sum(len(target.jobs) * (target.device.run.rounds + 1) for target in targets)
    with console.bar(f"measuring on {', '.join(devices)}", steps) as advance:

        def visit(target: _Target) -> None:
            def named(steps: int = 1, status: str = "") -> None:
                advance(steps, status if len(targets) == 1 else f"{target.name}: {status}")

            try:
                _visit(target, plan, console, named)
            except Shortfall as trouble:
                _give_up(target, str(trouble))

        fleet.each([partial(visit, target) for target in targets])
    if not any(target.trouble for target in targets):  # else keep what is known of a device that is down
        kept.tidy()
    if not any(job.timing and not job.timing.reference for target in targets for job in target.jobs):
        kind = Unreached if all(target.trouble for target in targets) else Shortfall
        raise kind("\n".join(_why(target, artifacts) for target in targets))
    return Profile(
        {target.name: target.machine for target in targets if target.machine},
        tuple(job.timing for target in targets for job in target.jobs if job.timing),
        tuple(failure for target in targets for failure in _failures(target, artifacts)),
    )


def _jobs(artifacts: Sequence[ModelFile], device: Device, cores: int) -> list[MeasuringJob]:
    """The rows of a device with this many cores."""
    return [
        MeasuringJob(artifact, engine, threads, batch)
        for artifact in artifacts
        for engine in device.run.engines
        if artifact.format == format_of(engine)
        for threads in device.run.thread_counts(cores)
        for batch in device.run.batch
    ]


def _visit(target: _Target, plan: _Plan, console: Console, advance: Advance) -> None:
    """Measure everything on one device.

    Raises:
        Shortfall: it cannot be reached, or the connection was lost.
    """
    with plan.fleet.machine(target.name, target.reach, target.device, console) as facts:
        target.machine = _machine(target, facts)
        target.jobs = _jobs(plan.artifacts, target.device, target.machine.cores)
        for job in target.jobs:
            job.key = _key(job, target, plan, facts)
            job.timing = plan.kept.find(job.key, Timing)
        known = sum(job.over for job in target.jobs)
        if known:
            console.say(f"  {target.name}: {known} of {len(target.jobs)} measured before")
        if target.reach.KIND == "estimated":
            _estimate_all(target, plan, advance)
            return
        waiting = [job for job in target.jobs if not job.over and _fits(job, target.machine)]
        while waiting:
            waiting = _measure(waiting, target, plan, advance)


def _estimate_all(target: _Target, plan: _Plan, advance: Advance) -> None:
    """Count instructions on an emulated device and estimate milliseconds; nothing is timed."""
    for job in target.jobs:
        if job.over:
            continue
        try:
            assert not job.is_reference  # the reference runs on this machine
            if job.batch != 1:
                raise Shortfall(f"a batch of {job.batch}: times are only estimated for one image")
            timing = _estimate.estimate(job.artifact, plan.folder, job.engine, job.threads, target.device)
        except Shortfall as trouble:
            job.fail(str(trouble))
        else:
            job.timing = replace(timing, device=target.name)
            plan.kept.add(job.key, job.timing)
        advance(target.device.run.rounds + 1, str(job))


def _give_up(target: _Target, trouble: str) -> None:
    target.trouble = f"cannot be reached by {target.device.reach.by}: {trouble}"
    for job in target.jobs:
        if not job.over:
            job.fail(target.trouble, lost=True)


def _machine(target: _Target, facts: dict[str, Any]) -> Machine:
    """The machine, as the device describes it."""
    try:
        machine = TypeAdapter(Machine).validate_python(facts)
    except ValidationError as error:
        raise Shortfall(f"it answered {str(facts)[:60]}: {str(error).splitlines()[0]}") from None
    if target.device.arch not in ("any", machine.arch):
        raise InputError(
            f'{target.name}: the device file says arch = "{target.device.arch}", but the machine reached by '
            f'"{target.device.reach.by}" is {machine.arch}; correct arch or reach.by'
        )
    return machine


def _key(job: MeasuringJob, target: _Target, plan: _Plan, facts: Mapping[str, Any]) -> dict[str, Any]:
    run = target.device.run.model_dump(exclude={"engines", "threads", "batch"})
    file = plan.folder / job.artifact.path
    return {
        "edgekit": __version__,
        "protocol": [protocol.VERSION, plan.minute],
        "artifact": job.artifact.id,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "",
        "engine": [job.engine, facts.get("engines", {}).get(job.engine)],
        "threads": job.threads,
        "batch": job.batch,
        "golden": plan.golden and plan.golden.key,
        "device": target.name,
        "reach": target.device.reach.model_dump(exclude={"timeout"}),
        "run": run,
        "estimate": target.device.estimate and target.device.estimate.model_dump(),
        "machine": asdict(target.machine) if target.machine else None,
    }


def _fits(job: MeasuringJob, machine: Machine) -> bool:
    if job.threads > machine.cores:
        job.fail(f"{job.threads} threads asked for, but only {machine.cores} cores can be used")
    elif not job.artifact.path:
        job.fail(ABSENT)
    return not job.reason


def _measure(jobs: list[MeasuringJob], target: _Target, plan: _Plan, advance: Advance) -> list[MeasuringJob]:
    """Fill in the jobs: samples, or the reason why there are none. Returns those that do not fit into memory yet."""
    run = target.device.run
    with ExitStack() as stack:
        opened = _open(jobs, target, plan, advance, stack)
        for job in opened:
            job.warm_up(run)
        turns = _Turns(target, plan, advance, stack)
        turns.take(opened)
        doubted: list[MeasuringJob] = []
        for _ in range(REPEATS):
            doubted = _doubted(opened, doubted, target, plan)
            if not doubted:
                break
            advance(0, f"again, as times are too uncertain: {', '.join(map(str, doubted))}")
            turns.take(doubted, 0)
        bundle, trouble = _sent(target, plan)
        for job in opened:
            if run.provider(job.engine):
                job.copy()
            job.whole(run, plan.golden, bundle, trouble)
            job.count_energy(run)
            for word in job.sustain(run.sustained, plan.minute):
                advance(0, f"{job}, {word}")
            if not job.reason:
                plan.kept.add(job.key, job.finish(run, target.name))
    return jobs[len(opened) :]


class _Turns:
    """Rounds on one device, which all rows take in turns, each round in another order."""

    def __init__(self, target: _Target, plan: _Plan, advance: Advance, stack: ExitStack) -> None:
        self._target, self._plan, self._advance, self._stack = target, plan, advance, stack
        self._shuffle = random.Random(SEED).shuffle  # noqa: S311
        self._start: float | None = None

    def take(self, jobs: Sequence[MeasuringJob], step: int = 1) -> None:
        """All rounds of the recipe, for these rows; `step` is what each turn counts as progress."""
        run = self._target.device.run
        slot = SPREAD * run.seconds / run.rounds
        for _ in range(run.rounds):
            order = [job for job in jobs if not job.reason]
            if not order:
                break
            self._shuffle(order)
            left = 0.0 if self._start is None else self._start + slot - monotonic()
            self._plan.fleet.pause(max(run.cooldown, left))
            self._start = monotonic()
            for job in order:
                if run.fresh and job.round_sizes:
                    job.renew(_start(self._target, self._plan, self._stack), run)
                job.round(run)
                self._advance(step, str(job))


def _doubted(
    opened: Sequence[MeasuringJob], before: Sequence[MeasuringJob], target: _Target, plan: _Plan
) -> list[MeasuringJob]:
    """What to measure again: the rows in doubt, and with them those that were, as only rounds of both compare."""
    rows = {id(job): job.so_far(target.device.run, target.name) for job in opened if not job.reason}
    known = [job.timing for job in target.jobs if job.timing]
    doubts = {id(row) for row in plan.doubts([*rows.values(), *known])}
    if not doubts & {id(row) for row in rows.values()}:
        return []
    again = {id(job) for job in before}
    return [job for job in opened if id(job) in rows and (id(rows[id(job)]) in doubts or id(job) in again)]


def _open(
    jobs: list[MeasuringJob], target: _Target, plan: _Plan, advance: Advance, stack: ExitStack
) -> list[MeasuringJob]:
    """Start the workers of as many jobs as fit into memory together, at least one."""
    opened: list[MeasuringJob] = []
    largest = 0
    for job in jobs:
        file = plan.folder / job.artifact.path
        try:  # if the file is missing, the device will say so
            model = target.reach.send(file, target.device) if file.is_file() else str(file)
        except Refused as trouble:
            job.fail(str(trouble), lost=True)
            opened.append(job)
            continue
        request = {
            "model": model,
            "engine": job.engine,
            "threads": job.threads,
            "provider": target.device.run.provider(job.engine),
            "seed": SEED,
        }
        job.open(_start(target, plan, stack), request)
        opened.append(job)
        advance(1, str(job))
        largest = max(largest, job.ready.get("rss_bytes", 0))
        available = job.ready.get("available_bytes")
        if available is not None and available < 2 * largest:
            break
    return opened


def _start(target: _Target, plan: _Plan, stack: ExitStack) -> Worker:
    """A measuring process, which ends with the stack at the latest."""
    return stack.enter_context(plan.fleet.worker(target.reach, ["-m", "edgekit.runtime.bench"], target.device))


def _sent(target: _Target, plan: _Plan) -> tuple[str, str]:
    """The bundle on the device, or why it is not there."""
    if plan.golden is None:
        return "", "no bundle with golden images"
    try:
        return target.reach.send(plan.golden.bundle, target.device), ""
    except Refused as trouble:
        return "", str(trouble)


def _failures(target: _Target, artifacts: Sequence[ModelFile]) -> list[Failure]:
    failures = []
    if all(job.is_reference for job in target.jobs):
        # say so for each file: the device must not vanish from the report silently
        reason = target.trouble or _unsuited(target, artifacts)
        engine, threads = target.device.run.engines[0], target.device.run.thread_counts(1)[0]
        failures = [Failure(artifact.id, engine, target.name, threads, reason) for artifact in artifacts]
    return failures + [
        Failure(job.artifact.id, job.engine, target.name, job.threads, job.reason, job.lost)
        for job in target.jobs
        if job.reason
    ]


def _why(target: _Target, artifacts: Sequence[ModelFile]) -> str:
    """Why nothing was measured on a device."""
    if target.trouble:
        return f"{target.name}: {target.trouble}"
    failed = [job for job in target.jobs if job.reason]
    files = [job.reason for job in failed if not job.is_reference] or [_unsuited(target, artifacts)]
    others = [job.reason for job in failed if job.is_reference]
    return f"{target.name}: nothing was measured: {'; '.join(dict.fromkeys(files + others))}"


def _unsuited(target: _Target, artifacts: Sequence[ModelFile]) -> str:
    if not artifacts:
        return "there are no artifacts"
    formats = ", ".join(sorted({artifact.format for artifact in artifacts}))
    return f"none of its engines ({', '.join(target.device.run.engines)}) runs {formats} files"
