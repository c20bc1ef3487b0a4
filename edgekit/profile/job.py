"""One row of a profile: what its measuring process (`edgekit.runtime.bench`) is asked, and the result."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Annotated, Any, NotRequired, Protocol

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from edgekit.device.file import RunSection
from edgekit.errors import Shortfall
from edgekit.measurements import Copies, Minute, Steps, Timing
from edgekit.profile._fleet import OPEN_TIMEOUT
from edgekit.reach.worker import Worker, WorkerFault
from edgekit.runtime.bundle import open_bundle
from edgekit.runtime.engines import torch_cuda
from edgekit.runtime.errors import RuntimeFault
from edgekit.verdict import stats

MIN_SAMPLES = 3
"""Least samples in each round, however slow the model is."""
COPIES = 20
"""Inferences whose copies are timed separately, if something other than the CPU computes."""
RUN_TIMEOUT = 60.0
"""Seconds to wait beyond the expected time."""
ENERGY = 0.5
"""Least seconds of the energy window; sensors are read 20 times per second."""
MINUTE = 60.0
"""Seconds covered by one row of a sustained measurement."""

_Time = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, le=1)]


class _Ready(TypedDict):
    """What `edgekit.runtime.bench` answers when a model is open."""

    version: str
    provider: str
    batch: Annotated[int, Field(ge=1)]
    load_ms: _Time
    first_ms: _Time
    placement: NotRequired[dict[str, dict[str, Annotated[int, Field(ge=0)]]]]
    cached: bool | None
    model_bytes: int | None
    temperature_c: _Finite | None


class _Warm(TypedDict):
    """Answer to the request to warm up."""

    used: Annotated[int, Field(ge=0)]
    stable: bool | None


class _Inferences(TypedDict):
    """What a sample consists of, if it is not a single inference; see `edgekit.reach.adb_worker`."""

    count: Annotated[int, Field(ge=1)]
    of: str
    mean_ms: _Time
    min_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    max_ms: _Time
    p95_ms: _Time | None


class _Round(TypedDict):
    """Answer to each round."""

    ms: Annotated[list[_Time], Field(min_length=1)]
    load_average: float | None
    rss_bytes: Annotated[int, Field(ge=0)]
    cpu_pressure: NotRequired[_Share | None]
    cpu_steal: NotRequired[_Share | None]
    runs: NotRequired[Annotated[list[_Inferences], Field(min_length=1)]]


class _Copied(TypedDict):
    """Answer to the question how long copying takes."""

    steps: Annotated[list[tuple[_Time, _Time, _Time]], Field(min_length=1)] | None


class _EndToEnd(TypedDict):
    """Answer to the request to predict images."""

    end_to_end: dict[str, _Time] | None
    of: str


class _Energy(TypedDict):
    """Answer to the request to count energy."""

    mj: _Time | None
    of: str


class _Minute(TypedDict):
    """Answer to each minute of a sustained measurement."""

    p50_ms: _Time
    p90_ms: _Time | None
    temperature_c: _Finite | None
    clock_mhz: _Finite | None
    throttled: bool | None


_READY, _WARM, _ROUND = TypeAdapter(_Ready), TypeAdapter(_Warm), TypeAdapter(_Round)
_COPIED, _END_TO_END, _ENERGY, _MINUTE = map(TypeAdapter, (_Copied, _EndToEnd, _Energy, _Minute))  # type: ignore[var-annotated]


@dataclass(frozen=True)
class GoldenImages:
    """What end-to-end times are measured on: the images in the bundle of the run."""

    bundle: Path
    files: dict[str, str]
    """SHA-256 of each artifact's model file."""
    key: tuple[Any, ...]
    """What the times depend on: preprocessing, postprocessing, and SHA-256 of the images."""

    @classmethod
    def of(cls, bundle: Path) -> GoldenImages | None:
        """The golden images of a bundle; None if it has none.

        Raises:
            Shortfall: the bundle is damaged.
        """
        try:
            manifest = open_bundle(bundle, verify="off").manifest
        except RuntimeFault as fault:
            raise Shortfall(str(fault)) from None
        images = manifest.get("golden", {}).get("images", ())
        if not images:
            return None
        sums = {name: member["sha256"] for name, member in manifest["members"].items()}
        files = {artifact["id"]: sums[artifact["file"]] for artifact in manifest["artifacts"]}
        how = (manifest["preprocessing"], manifest["postprocessing"])
        return cls(bundle, files, (*how, [sums[image] for image in images]))


class ModelFile(Protocol):
    """What is measured, as far as that needs to know it: an `edgekit.types.Artifact`, or what stands in for one."""

    @property
    def id(self) -> str:
        """What results call it."""

    @property
    def format(self) -> str:
        """What `edgekit.device.file.format_of` says of the engines that run it."""

    @property
    def path(self) -> str:
        """Where it is, in the folder of all of them; empty where it is not."""

    @property
    def sha256(self) -> str:
        """Of the file; empty where no bundle has it."""


@dataclass
class MeasuringJob:
    """One artifact, engine, thread count and batch on the way to a `Timing` or a `Failure`."""

    artifact: ModelFile
    engine: str
    threads: int
    batch: int = 1
    key: dict[str, Any] = field(default_factory=dict)
    """What the result depends on."""
    worker: Worker | None = None
    request: Mapping[str, Any] = field(default_factory=dict)
    ready: dict[str, Any] = field(default_factory=dict)
    warm: dict[str, Any] = field(default_factory=dict)
    samples: list[float] = field(default_factory=list)
    round_sizes: list[int] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    """One per sample, if each is of several inferences."""
    loads: list[float] = field(default_factory=list)
    pressures: list[float] = field(default_factory=list)
    steals: list[float] = field(default_factory=list)
    rss_bytes: int = 0
    copies: Copies | None = None
    steps: Steps | None = None
    end_to_end: str = "not measured"
    energy_mj: float | None = None
    energy: str = "not measured"
    minutes: list[Minute] = field(default_factory=list)
    timing: Timing | None = None
    reason: str = ""
    lost: bool = False

    def __str__(self) -> str:
        return f"{self.artifact.id} on {self.engine}"

    @property
    def is_reference(self) -> bool:
        """Whether it is the float network in PyTorch, which others are compared with."""
        return self.artifact.format == torch_cuda.FORMAT

    @property
    def over(self) -> bool:
        """Whether it has finished, successfully or not."""
        return bool(self.reason) or self.timing is not None

    def fail(self, reason: str, lost: bool = False) -> None:
        """Finish without a result."""
        if self.is_reference:  # its path during the stage helps nobody later
            reason = reason.removeprefix(f"{self.artifact.path}: ")
        self.reason, self.lost = reason, lost

    def open(self, worker: Worker, request: Mapping[str, Any]) -> None:
        """Load the model and run it once."""
        self.worker = worker
        self.request = {**request, "batch": self.batch} if self.batch != 1 else request
        self.ready = self._ask(self.request, OPEN_TIMEOUT, _READY)

    def warm_up(self, plan: RunSection) -> None:
        """Warm up until times are steady, for no longer than the measurement itself."""
        request = {"warm_up": {"least": plan.warmup, "seconds": plan.seconds}}
        self.warm = self._ask(request, self._patience(plan.warmup, plan.seconds), _WARM)

    def renew(self, worker: Worker, plan: RunSection) -> None:
        """Continue in a new process, warmed up; load and first inference times stay those of the first."""
        if self.worker is not None:
            self.worker.close()
        self.worker = worker
        if self._ask(self.request, OPEN_TIMEOUT, _READY):
            again = {"warm_up": {"least": plan.warmup, "seconds": plan.seconds / plan.rounds}}
            answer = self._ask(again, self._patience(plan.warmup, plan.seconds), _WARM)
            self.warm["stable"] = self.warm["stable"] and answer.get("stable", False)

    def round(self, plan: RunSection) -> None:
        """Take one round of samples."""
        seconds = plan.seconds / plan.rounds
        request = {"run": {"warmup": plan.warmup, "seconds": seconds, "min_samples": MIN_SAMPLES}}
        answer = self._ask(request, self._patience(plan.warmup + MIN_SAMPLES, seconds), _ROUND)
        if answer:
            self.samples += answer["ms"]
            self.round_sizes.append(len(answer["ms"]))
            self.runs += answer.get("runs", ())
            self.loads.append(answer["load_average"] or 0.0)
            for shares, share in ((self.pressures, "cpu_pressure"), (self.steals, "cpu_steal")):
                if answer.get(share) is not None:
                    shares.append(answer[share])
            self.rss_bytes = answer["rss_bytes"]

    def copy(self) -> None:
        """Time the copies, if something other than the CPU computes."""
        steps = self._ask({"steps": COPIES}, self._patience(COPIES, 0), _COPIED).get("steps")
        self.copies = Copies(*map(median, zip(*steps, strict=True))) if steps else None

    def whole(self, plan: RunSection, golden: GoldenImages | None, bundle: str, trouble: str) -> None:
        """Time end-to-end predictions, for as long as a round takes.

        Args:
            plan: how long.
            golden: what is predicted.
            bundle: path of the bundle on the device; empty if it is not there.
            trouble: why it is not there.
        """
        if self.is_reference:
            return  # the runtime cannot predict with it
        if golden is None or not bundle:
            self.end_to_end = f"not measured: {trouble}"
        elif self.batch != 1:
            self.end_to_end = "not measured: end to end takes one image at a time"
        elif golden.files.get(self.artifact.id) != self.artifact.sha256:
            self.end_to_end = "not measured: the bundle does not have this file"
        else:
            seconds = plan.seconds / plan.rounds
            request = {"end_to_end": {"bundle": bundle, "artifact": self.artifact.id, "seconds": seconds}}
            answer = self._ask(request, self._patience(100, seconds), _END_TO_END)
            if answer:
                self.steps = Steps(**answer["end_to_end"]) if answer["end_to_end"] else None
                self.end_to_end = answer["of"]

    def count_energy(self, plan: RunSection) -> None:
        """Count energy, if the device has a counter."""
        seconds = max(plan.seconds / plan.rounds, ENERGY)
        answer = self._ask({"energy": {"seconds": seconds}}, self._patience(2, seconds), _ENERGY)
        if answer:
            self.energy_mj, self.energy = answer["mj"], answer["of"]

    def sustain(self, seconds: float, minute: float) -> Iterator[str]:
        """Run continuously.

        Args:
            seconds: how long.
            minute: seconds per row.

        Yields:
            A progress message after each row.
        """
        count = math.ceil(seconds / minute)
        for number in range(1, count + 1):
            length = min(minute, seconds - (number - 1) * minute)
            answer = self._ask({"minute": {"seconds": length}}, self._patience(12, length), _MINUTE)
            if not answer:
                return
            self.minutes.append(Minute(number, *(answer[key] for key in _Minute.__annotations__)))
            yield f"minute {number} of {count}"

    def finish(self, plan: RunSection, device: str) -> Timing:
        """The row, for good; arguments as for `so_far`."""
        self.timing = self.so_far(plan, device)
        return self.timing

    def so_far(self, plan: RunSection, device: str) -> Timing:
        """Build the row from what was measured.

        Args:
            plan: what was requested.
            device: its name.
        """
        figures = {**stats.summary(self.samples), **stats.intervals(self.samples, self.round_sizes)}
        if self.runs:
            figures |= _of_runs(self.engine, self.runs)
        return Timing(
            artifact=self.artifact.id,
            engine=self.engine,
            engine_version=self.ready["version"],
            provider=self.ready["provider"],
            device=device,
            threads=self.threads,
            batch=self.ready["batch"],
            kind="measured",
            load_ms=self.ready["load_ms"],
            first_ms=self.ready["first_ms"],
            warmup=plan.warmup,
            rounds=len(self.round_sizes),
            rss_bytes=self.rss_bytes,
            load_average=max(self.loads),
            samples=tuple(self.samples),
            stable=self.warm["stable"],
            warmup_used=self.warm["used"],
            model_bytes=self.ready["model_bytes"],
            cached=self.ready["cached"],
            temperature_c=self.ready["temperature_c"],
            steps=self.steps,
            end_to_end=self.end_to_end,
            energy_mj=self.energy_mj,
            energy=self.energy,
            sustained=tuple(self.minutes),
            placement=self.ready.get("placement", {}),
            copies=self.copies,
            reference=self.is_reference,
            cpu_pressure=fmean(self.pressures) if self.pressures else None,
            cpu_steal=fmean(self.steals) if self.steals else None,
            **figures,
        )

    def _patience(self, runs: int, seconds: float) -> float:
        """Seconds to wait for an answer that takes `runs` inferences plus `seconds`."""
        return RUN_TIMEOUT + 2 * seconds + 10 * runs * float(self.ready.get("first_ms", 0)) / 1000

    def _ask(self, request: Mapping[str, Any], timeout: float, shape: TypeAdapter[Any]) -> dict[str, Any]:
        """The worker's answer; empty if it is missing or malformed (the reason is set), or the job failed before."""
        if self.reason:
            return {}
        assert self.worker is not None
        try:
            answer = self.worker.ask(dict(request), timeout)
            shape.validate_python(answer)
        except WorkerFault as fault:
            self.fail(str(fault), fault.lost)
        except ValidationError as error:
            problem = error.errors()[0]
            self.fail(f"the measuring process answered {'.'.join(map(str, problem['loc']))}: {problem['msg'].lower()}")
        else:
            return answer
        self.worker.close()  # a process that hangs must not slow down the others
        return {}


def _of_runs(engine: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of a `Timing` whose samples cover several inferences each; what cannot be known is None."""
    counts, p95 = [run["count"] for run in runs], [run["p95_ms"] for run in runs]
    many = f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else f"{counts[0]}"
    spread = "" if None in p95 else f"; their p95 is {min(p95):.3g} to {max(p95):.3g} ms"
    return {
        "min_ms": min(run["min_ms"] for run in runs),
        "mean_ms": sum(run["mean_ms"] * run["count"] for run in runs) / sum(counts),
        **dict.fromkeys(("p90_ms", "p99_ms", "p90_ci", "p99_ci", "outliers")),
        "sampling": f"p50 of {len(runs)} runs of {engine}, each the {runs[0]['of']} of {many} inferences{spread}; "
        "single times, p90 and p99 are not reported, and copies in and out are not in the times",
    }
