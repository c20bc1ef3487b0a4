"""Frozen dataclasses of what was measured on devices, and of the verdict on it. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["measured", "emulated", "estimated"]
NOISE = 0.02
"""Relative differences of time below this are chance, where there are no intervals."""


@dataclass(frozen=True)
class Machine:
    """Facts of the machine that produced a number, read on that machine."""

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
    """cpufreq governor, None where it cannot be read."""


@dataclass(frozen=True)
class Steps:
    """Medians of the steps from an encoded image to a class, in milliseconds."""

    decode_ms: float
    preprocess_ms: float
    infer_ms: float
    postprocess_ms: float
    total_ms: float
    """Median of whole passes; the steps' medians need not add up to it."""


@dataclass(frozen=True)
class Minute:
    """One minute of a sustained measurement."""

    minute: int
    """From 1."""
    p50_ms: float
    p90_ms: float | None
    """None where single times are not known."""
    temperature_c: float | None = None
    """Hottest zone at the end of the minute; None where it cannot be read, as the others."""
    clock_mhz: float | None = None
    throttled: bool | None = None


@dataclass(frozen=True)
class Copies:
    """Medians of the steps of an inference on another processor, in milliseconds, each waited for."""

    in_ms: float
    """Copying the input there."""
    compute_ms: float
    out_ms: float
    """Copying the output back."""


@dataclass(frozen=True)
class Timing:
    """Latency of one artifact x engine x threads on one device. Times in milliseconds."""

    artifact: str
    """`Artifact.id`; ``torch-fp32`` of a `reference`."""
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
    """None where single times are not known, as the next; see `sampling`."""
    p99_ms: float | None
    warmup: int
    rounds: int
    rss_bytes: int
    """Peak resident set of the measuring process, engine and model included."""
    load_average: float
    samples: tuple[float, ...]
    """Every inference after warm-up, in the order measured."""
    round_sizes: tuple[int, ...] = ()
    """How many of the samples each round gave, in order; empty where that is not known."""
    p50_ci: tuple[float, float] | None = None
    """95 % confidence interval in ms (`edgekit.verdict.stats`), an estimate's error bar; None where not known."""
    p90_ci: tuple[float, float] | None = None
    p99_ci: tuple[float, float] | None = None
    outliers: float | None = None
    """Share of samples further than 3 scaled MAD from the median, 0..1. None is ever removed."""
    stable: bool | None = None
    """Whether warm-up ended because times had become steady (`edgekit.runtime._steady`); None where nobody looked."""
    warmup_used: int | None = None
    """Inferences that warm-up took until then."""
    model_bytes: int | None = None
    """What loading the model and one inference added to the resident set."""
    cached: bool | None = None
    """Whether the model's file was in the page cache when it was loaded; None where the system does not tell."""
    temperature_c: float | None = None
    """Hottest thermal zone before the first inference; None where it cannot be read."""
    steps: Steps | None = None
    """End to end; None where inference alone was timed."""
    end_to_end: str = "not measured"
    """What `steps` is of, e.g. ``8 golden images``; or why there are none."""
    energy_mj: float | None = None
    """Millijoules of one inference, idle power included."""
    energy: str = "not measured"
    """The counter that `energy_mj` was read from, e.g. ``RAPL package-0``; or why there is none."""
    sustained: tuple[Minute, ...] = ()
    """Minute by minute; empty where it was not asked for."""
    instructions: int | None = None
    """Executed for one inference, counted under emulation."""
    placement: dict[str, dict[str, int]] = field(default_factory=dict)
    """Operators by execution provider and type, as they ran; empty where only the CPU was asked for."""
    copies: Copies | None = None
    """The time of an inference taken apart; None on the CPU, and where the engine does not tell."""
    sampling: str = ""
    """What each of `samples` is, where it is not a single inference: p50 is then that of these samples."""
    reference: bool = False
    """Of the float network in PyTorch, to compare with: it is in no file, so that it is never shipped."""


@dataclass(frozen=True)
class OperatorRow:
    """One operator of one artifact, as an engine runs it."""

    op: str
    """The engine's word for it: ``QLinearConv``, ``DEPTHWISE_CONV_2D``, ``PAD + CONV_2D``."""
    layer: str
    """Module of the torch network it comes from; the file's own name for it where the file does not tell."""
    ms: float
    share: float
    """Of `OperatorProfile.total_ms`, 0..1."""
    where: str
    """Execution provider, or the delegate and the number of its partition; ``builtin`` for the interpreter itself."""
    dtype: str
    """Of its result."""


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
    """Of a whole inference with nothing else recorded: mean of the fastest quarter, as all times here."""
    raw_ms: float
    """What the rows added up to before they were brought to `total_ms`; how far off it is tells how sure they are."""
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
    """0 where the bundle has none for this file."""
    away: float | None
    """The largest difference, in `unit`; None where nothing was compared, or `problem` says more."""
    unit: str
    """``steps`` of an integer output, or ``of the largest output`` (a share) of a float one."""
    images: int
    """Encoded golden images that were also decoded there, and gave the golden pixels to within one 8-bit step."""
    problem: str = ""
    """Which vector is further away than its tolerance, how far, and on which CPU; empty where all hold."""

    @property
    def held(self) -> bool:
        """Whether there were vectors, and this engine gives them there."""
        return bool(self.vectors) and not self.problem


@dataclass(frozen=True)
class Failure:
    """Something that was asked for and could not be measured, and why."""

    artifact: str
    engine: str
    device: str
    threads: int
    reason: str
    lost: bool = False
    """The device was not reached, was lost on the way, or had no room: the same command measures it another time."""


@dataclass(frozen=True)
class Profile:
    """What the profile stage writes as ``profile.json``, one for all devices."""

    machines: dict[str, Machine]
    """By device name."""
    timings: tuple[Timing, ...]
    failures: tuple[Failure, ...] = ()
    operators: tuple[OperatorProfile, ...] = ()
    """Empty where nobody asked for them."""
    golden: tuple[Replay, ...] = ()
    """Empty where nothing was replayed."""


@dataclass(frozen=True)
class Verdict:
    """What to ship on one device, and why."""

    device: str
    artifact: str | None
    """None when nothing meets the bounds."""
    engine: str | None
    threads: int | None
    reason: str
    kind: Kind | None = None
    """Of the timings that were compared; None where there were none."""
    baseline: str | None = None
    """The fastest float file there, in words; None where the choice itself is float."""
    speedup: float | None = None
    """p50 of that baseline over p50 of the choice."""
    size_ratio: float | None = None
    """Bytes of that baseline over bytes of the choice."""
    top1_drop: float | None = None
    """Points of test top-1 lost against torch fp32; negative is a gain."""
