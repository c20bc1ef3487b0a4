"""Frozen dataclasses for measurements on devices and the verdicts on them. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["measured", "emulated", "estimated"]
Objective = Literal["p50", "end_to_end", "size"]
"""What the file that ships must be best at."""
NOISE = 0.02
"""Relative differences of time below this are chance, where there are no intervals."""


@dataclass(frozen=True)
class Machine:
    """Facts about the machine that produced a number, read on that machine."""

    hostname: str
    arch: str
    cpu: str
    cores: int
    memory_bytes: int
    features: tuple[str, ...]
    """SIMD features that matter to the engines: avx2, avx512_vnni, asimddp, ..."""
    os: str
    python: str
    governor: str | None = None
    """cpufreq governor; None if it cannot be read."""


@dataclass(frozen=True)
class Steps:
    """Medians of the steps from an encoded image to a class, in milliseconds."""

    decode_ms: float
    preprocess_ms: float
    infer_ms: float
    postprocess_ms: float
    total_ms: float
    """Median of complete passes; the medians of the steps need not add up to it."""


@dataclass(frozen=True)
class Minute:
    """One minute of a sustained measurement."""

    minute: int
    """Number of the minute, from 1."""
    p50_ms: float
    p90_ms: float | None
    """None if the times of single inferences are unknown."""
    temperature_c: float | None = None
    """Hottest zone at the end of the minute. This and the next two are None if they cannot be read."""
    clock_mhz: float | None = None
    throttled: bool | None = None


@dataclass(frozen=True)
class Copies:
    """Medians of the steps of an inference on another processor, in milliseconds, each step synchronized."""

    in_ms: float
    """Copying the input there."""
    compute_ms: float
    out_ms: float
    """Copying the output back."""


@dataclass(frozen=True)
class Timing:
    """Latency of one artifact x engine x threads on one device. Times in milliseconds."""

    artifact: str
    """`Artifact.id`; ``torch-fp32`` for a `reference`."""
    engine: str
    engine_version: str
    provider: str
    """Execution provider or delegate that ran, read back from the engine."""
    device: str
    threads: int
    batch: int
    kind: Kind
    load_ms: float
    first_ms: float
    """Cold first inference, after load."""
    min_ms: float
    mean_ms: float
    p50_ms: float
    p90_ms: float | None
    """This and `p99_ms` are None if the times of single inferences are unknown; see `sampling`."""
    p99_ms: float | None
    warmup: int
    rounds: int
    rss_bytes: int
    """Peak resident set size of the measuring process, including engine and model."""
    load_average: float
    samples: tuple[float, ...]
    """Every inference after warm-up, in the order measured."""
    round_sizes: tuple[int, ...] = ()
    """Number of samples in each round, in order; empty if unknown."""
    p50_ci: tuple[float, float] | None = None
    """95 % confidence interval in ms (`edgekit.verdict.stats`); for an estimate, its error bar. None if unknown."""
    p90_ci: tuple[float, float] | None = None
    p99_ci: tuple[float, float] | None = None
    outliers: float | None = None
    """Share of samples further than 3 scaled MAD from the median, 0..1. No sample is removed."""
    stable: bool | None = None
    """Whether warm-up ended because times had become steady (`edgekit.runtime._steady`); None if not checked."""
    warmup_used: int | None = None
    """Number of inferences during warm-up."""
    model_bytes: int | None = None
    """What loading the model and one inference added to the resident set."""
    cached: bool | None = None
    """Whether the model file was in the page cache when it was loaded; None if the system does not say."""
    temperature_c: float | None = None
    """Hottest thermal zone before the first inference; None if it cannot be read."""
    steps: Steps | None = None
    """Times of the steps end to end; None if only inference was timed."""
    end_to_end: str = "not measured"
    """The images that `steps` was measured on, e.g. ``8 golden images``; or why it was not."""
    energy_mj: float | None = None
    """Millijoules per inference, including idle power."""
    energy: str = "not measured"
    """The counter that `energy_mj` was read from, e.g. ``RAPL package-0``; or why there is none."""
    sustained: tuple[Minute, ...] = ()
    """Sustained load, minute by minute; empty if not requested."""
    instructions: int | None = None
    """Instructions executed for one inference, counted under emulation."""
    placement: dict[str, dict[str, int]] = field(default_factory=dict)
    """Operators by execution provider and type, as they ran; empty if only the CPU was requested."""
    copies: Copies | None = None
    """Breakdown of the time of an inference; None on the CPU, or if the engine does not report it."""
    sampling: str = ""
    """What each of `samples` is, if not a single inference; p50 is then the median of these samples."""
    reference: bool = False
    """Whether this is the float network in PyTorch, for comparison only: it is in no file, so it is never shipped."""
    cpu_pressure: float | None = None
    """Share of the rounds in which a process of the machine waited for a core, 0..1; None if it does not say."""
    cpu_steal: float | None = None
    """Share of CPU time that the host of a virtual machine took during the rounds, 0..1; None if it does not say."""


@dataclass(frozen=True)
class OperatorRow:
    """One operator of one artifact, as an engine runs it."""

    op: str
    """The engine's name for it: ``QLinearConv``, ``DEPTHWISE_CONV_2D``, ``PAD + CONV_2D``."""
    layer: str
    """Module of the torch network it comes from; if the file does not say, its own name in the file."""
    ms: float
    share: float
    """Share of `OperatorProfile.total_ms`, 0..1."""
    where: str
    """Execution provider, or the delegate and the number of its partition; ``builtin`` for the interpreter itself."""
    dtype: str
    """Data type of its result."""


@dataclass(frozen=True)
class OperatorProfile:
    """Where the time of one inference goes."""

    artifact: str
    engine: str
    engine_version: str
    device: str
    threads: int
    method: str
    """``engine profiler`` or ``prefix differences``; see `edgekit.runtime.trace`."""
    total_ms: float
    """Time of a whole inference without profiling: mean of the fastest quarter, as for all times here."""
    raw_ms: float
    """Sum of the rows before they were scaled to `total_ms`; the closer it is to that, the more reliable they are."""
    rows: tuple[OperatorRow, ...]
    """In order of execution."""


@dataclass(frozen=True)
class Replay:
    """Golden vectors of one artifact, replayed by one engine of one device."""

    artifact: str
    engine: str
    engine_version: str
    provider: str
    device: str
    vectors: int
    """Number of golden vectors; 0 if the bundle has none for this file."""
    away: float | None
    """The largest difference, in `unit`; None if nothing was compared, or if `problem` says more."""
    unit: str
    """``steps`` for an integer output, or ``of the largest output`` (a share) for a float one."""
    images: int
    """Number of encoded golden images that were also decoded there and matched the golden pixels to one 8-bit step."""
    problem: str = ""
    """Which vector exceeds its tolerance, by how much, and on which CPU; empty if all match."""

    @property
    def held(self) -> bool:
        """Whether there were vectors, and this engine reproduced them on this device."""
        return bool(self.vectors) and not self.problem


@dataclass(frozen=True)
class Failure:
    """Something that was requested but could not be measured, and why."""

    artifact: str
    engine: str
    device: str
    threads: int
    reason: str
    lost: bool = False
    """The device was unreachable, was lost on the way, or had no space: running the command again measures it again."""


@dataclass(frozen=True)
class Profile:
    """What the profile stage writes as ``profile.json``, one file for all devices."""

    machines: dict[str, Machine]
    """By device name."""
    timings: tuple[Timing, ...]
    failures: tuple[Failure, ...] = ()
    operators: tuple[OperatorProfile, ...] = ()
    """Empty if not requested."""
    golden: tuple[Replay, ...] = ()
    """Empty if nothing was replayed."""


@dataclass(frozen=True)
class Verdict:
    """What to ship on one device, and why."""

    device: str
    artifact: str | None
    """None if nothing meets the limits."""
    engine: str | None
    threads: int | None
    reason: str
    kind: Kind | None = None
    """Kind of the timings that were compared; None if there were none."""
    baseline: str | None = None
    """The fastest float file there, in words; None if the choice itself is float."""
    speedup: float | None = None
    """p50 of that baseline divided by p50 of the choice."""
    size_ratio: float | None = None
    """Bytes of that baseline divided by bytes of the choice."""
    top1_drop: float | None = None
    """Points of test top-1 lost against torch fp32; negative is a gain."""
    by: str = "p50"
    """What decided: the objective, or what broke a tie: ``end to end``, ``memory``, ``load time``, ``size``, ..."""
    undecided: bool = False
    """Whether times were too uncertain to tell the choice from another file (`edgekit.verdict.noise`)."""
