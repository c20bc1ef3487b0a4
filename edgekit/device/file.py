"""A device: one TOML file with facts, limits and how to reach it, but never results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    TypeAdapter,
    WithJsonSchema,
    WrapValidator,
    field_validator,
    model_validator,
)

from edgekit.config.menu import menu
from edgekit.config.toml import WEEK, Duration, Section, parse, validate
from edgekit.device import providers as providers_module
from edgekit.measurements import Objective
from edgekit.reach.program import THERE
from edgekit.reach.programs import PROGRAMS
from edgekit.runtime import engine_menu
from edgekit.runtime.engines import torch_cuda

_KEYS = {
    "ssh": ("host", "port", "config", "python"),
    "adb": ("host", "python", "benchmark", "flags"),
    "qemu": ("cpu",),
}
"""Which keys of [reach] each way uses."""
TORCH = "torch_cuda"
"""The engine that others are compared with: it runs the float network in PyTorch, on this machine only."""


class ReachSection(Section):
    """How commands get to the device."""

    by: Annotated[str, AfterValidator(menu("edgekit.reach.ways"))] = Field(
        "local", description="a module of edgekit/reach/ways"
    )
    host: str | None = Field(
        None, min_length=1, description="ssh: [user@]host, or a Host in the ssh config; adb: serial number"
    )
    port: int | None = Field(None, ge=1, le=65535, description="ssh port; default: from the ssh config, else 22")
    config: str | None = Field(None, description="ssh: client config to use instead of ~/.ssh/config")
    python: str = Field("python3", min_length=1, description="Python 3.9 or later on the device")
    timeout: float = Field(15.0, gt=0, le=3600, description="seconds to wait for a connection")
    cpu: Literal["cortex-a72", "cortex-a76"] | None = Field(None, description="qemu: the core to emulate")
    benchmark: str | None = Field(
        None,
        min_length=1,
        description="adb: TFLite's program benchmark_model, or ExecuTorch's executor_runner, instead of Python: a file "
        'here, which is sent (relative to this file), or one there, e.g. "phone:/data/local/tmp/benchmark_model"; '
        'needs run.engines = ["benchmark_model"] or ["executor_runner"]',
    )
    flags: list[str] = Field([], description='adb: additional flags for that program, e.g. ["--use_gpu=true"]')

    @field_validator("host")
    @classmethod
    def _is_no_option(cls, host: str | None) -> str | None:
        if host is not None and (host.startswith("-") or any(c.isspace() or not c.isprintable() for c in host)):
            raise ValueError("a host must neither start with a dash nor contain blanks")
        return host

    @model_validator(mode="after")
    def _says_where(self) -> Self:
        given = {key for key, about in type(self).model_fields.items() if getattr(self, key) != about.default}
        strange = sorted(given - {"by", "timeout", *_KEYS.get(self.by, ())})
        if strange:
            raise ValueError(f'by = "{self.by}" does not use {", ".join(strange)}')
        if self.by == "ssh" and self.host is None:
            raise ValueError('by = "ssh" needs host = "user@address"')
        if self.by == "qemu" and self.cpu is None:
            raise ValueError('by = "qemu" needs cpu = "cortex-a72" or "cortex-a76"')
        if self.flags and self.benchmark is None:
            raise ValueError("flags are for benchmark, which is not set")
        return self


_Counts = Annotated[list[Annotated[int, Field(ge=1, le=256)]], Field(min_length=1)]
Threads = Annotated[
    list[int],
    WrapValidator(lambda value, _: [] if value == "all" else TypeAdapter(_Counts).validate_python(value, strict=True)),
    WithJsonSchema({"anyOf": [TypeAdapter(_Counts).json_schema(), {"const": "all"}]}),
]


_Engine = Literal[
    "onnxruntime", "litert", "openvino", "executorch", "tflite_runtime", "benchmark_model", "executor_runner",
    "torch_cuda",
]  # fmt: skip
USUAL = "usual"
_EXTRA = ("openvino", "executorch")
"""Engines of this machine where they are installed."""
_EngineSchema = {"anyOf": [TypeAdapter(list[_Engine]).json_schema(), {"const": USUAL}]}


class RunSection(Section):
    """What to measure on the device, and for how long."""

    engines: Annotated[list[_Engine], WithJsonSchema(_EngineSchema)] = Field(
        ["litert", "onnxruntime"],
        min_length=1,
        description="what runs the files; torch_cuda also runs the float network in PyTorch, as a reference; "
        '"usual", for this machine only: litert, onnxruntime, and openvino and executorch where they are installed',
    )
    providers: dict[str, str] = Field(
        {}, description='what an engine runs on, e.g. onnxruntime = "cuda"; default: cpu; for torch_cuda: cuda'
    )
    allow_fallback: bool = Field(
        False, description="let the CPU run operators that these providers do not support; false: report an error"
    )
    threads: Threads = Field(
        [1], description='thread counts; "all" (stored as []): 1, 2, 4, ... and the number of cores'
    )
    batch: list[Annotated[int, Field(ge=1, le=4096)]] = Field(
        [1],
        min_length=1,
        description="images per inference; sizes other than 1 only for ONNX files with an open batch size",
    )
    warmup: int = Field(
        10,
        ge=0,
        le=1_000_000,
        description="least inferences before each round; the first goes on until times are steady, or for `seconds`",
    )
    seconds: float = Field(3.0, gt=0, le=WEEK, description="measured time per artifact, engine and thread count")
    rounds: int = Field(
        5, ge=1, le=10_000, description="number of rounds the time is divided into, interleaved over all artifacts"
    )
    fresh: bool = Field(
        False,
        description="a new process for each round: takes longer, but intervals then cover process variation",
    )
    cooldown: float = Field(0.0, ge=0, le=WEEK, description="seconds of rest before each round")
    sustained: Duration = Field(
        0.0, description='then run each continuously for this long, reported minute by minute, e.g. "10m"; 0: skip this'
    )

    @model_validator(mode="after")
    def _has_such_providers(self) -> Self:
        for name in PROGRAMS.keys() & self.providers.keys():
            raise ValueError(f'providers: {name} takes reach.flags, e.g. ["--use_gpu=true"]')
        providers_module.checked(self.providers, list(self.engines))
        return self

    @property
    def file_engines(self) -> list[str]:
        """Those of `engines` that run exported files; exporting may depend on them."""
        return [engine for engine in self.engines if engine != TORCH]

    def thread_counts(self, cores: int) -> list[int]:
        """What `threads` stands for on a machine with `cores` cores."""
        return self.threads or sorted({2**power for power in range(cores.bit_length())} | {cores})

    def provider(self, engine: str) -> str | None:
        """The provider that an engine's `load` is given; None is its default for the CPU."""
        if engine == TORCH:  # an exported program runs on one device only: no fallback
            return self.providers.get(TORCH, torch_cuda.CUDA)
        return providers_module.asked(self.providers.get(engine), self.allow_fallback)


class LimitsSection(Section):
    """Limits that a model must meet to be shipped on this device."""

    p90_ms: float | None = Field(None, gt=0)
    size_mb: float | None = Field(None, gt=0, description="file size in 1e6 bytes")
    rss_mb: float | None = Field(None, gt=0, description="peak resident set in 1e6 bytes")
    ship_by: Objective | None = Field(
        None,
        description="what the file that ships must be best at: p50 of an inference, end_to_end (from an encoded image "
        "to a class), or size; default: profile.ship_by of the recipe",
    )

    @property
    def bounds(self) -> dict[str, float]:
        """The limits that are set, by key."""
        given: dict[str, float] = self.model_dump(exclude={"ship_by"}, exclude_none=True)
        return given


class FactsSection(Section):
    """What the device was when ``edgekit devices probe`` read it. For people to read; nothing depends on it."""

    cpu: str = ""
    cores: int | None = Field(None, ge=1)
    memory_mb: int | None = Field(None, ge=0, description="in 1e6 bytes")
    features: list[str] = Field([], description="SIMD features that matter to the engines")
    governor: str | None = Field(None, description="clock governor of the CPU")
    thermal_zones: list[str] = Field([])
    engines: dict[str, str] = Field({}, description="versions by engine")
    os: str = ""
    python: str = ""


class Published(Section):
    """A time measured on the real board, and the counts of the same network on the emulated one."""

    net: str
    engine: str = Field(description="what ran the network")
    ms: float = Field(gt=0)
    source: str = Field(min_length=1)
    fit: bool = Field(description="false: left out of the fit, to check the estimate against")
    instructions: int = Field(gt=0, description="instructions of one inference on one thread, counted under emulation")
    loaded: int = Field(gt=0, description="bytes loaded by that inference")
    stored: int = Field(gt=0, description="bytes stored by that inference")


class EstimateSection(Section):
    """How latency is estimated from instructions counted under emulation (`edgekit.profile._estimate`)."""

    threads: int = Field(ge=1, description="thread count of the published times; no other count is estimated")
    engines: list[str] = Field(min_length=1, description="engines whose kernels the published times measure")
    published: list[Published] = Field(min_length=2)


class Device(Section):
    """A whole device file."""

    name: str
    arch: Literal["x86_64", "aarch64", "any"] = "any"
    soc: str = ""
    facts: FactsSection = Field(default_factory=FactsSection)
    reach: ReachSection = Field(default_factory=ReachSection)
    run: RunSection = Field(default_factory=RunSection)
    limits: LimitsSection = Field(default_factory=LimitsSection)
    estimate: EstimateSection | None = Field(None, description="emulated devices only")

    @model_validator(mode="before")
    @classmethod
    def _usual_engines(cls, given: Any) -> Any:
        run, reach = (given.get("run"), given.get("reach")) if isinstance(given, dict) else (None, None)
        if not isinstance(run, dict) or run.get("engines") != USUAL:
            return given
        if isinstance(reach, dict) and reach.get("by", "local") != "local":
            raise ValueError(f'run.engines = "{USUAL}" is for this machine; name the engines of another')
        more = [name for name in _EXTRA if engine_menu.installed(engine_menu.engine(name))]
        return {**given, "run": {**run, "engines": ["litert", "onnxruntime", *more]}}

    @model_validator(mode="after")
    def _has_what_measures(self) -> Self:
        given, names = self.reach.benchmark, [name for name in self.run.engines if name in PROGRAMS]
        if given is not None and (len(names) != 1 or self.run.engines != names):
            choices = " or ".join(f'["{name}"]' for name in PROGRAMS)
            raise ValueError(f"reach.benchmark needs run.engines = {choices}, and nothing else")
        if given is None and names:
            raise ValueError(f'run.engines: {names[0]} needs reach.by = "adb" and reach.benchmark, the program\'s path')
        if given is not None:
            file = given.rpartition("/")[2]
            other = next((name for name in PROGRAMS if name in file and names[0] not in file), None)
            if other is not None:
                raise ValueError(f'reach.benchmark: {file} needs run.engines = ["{other}"], not ["{names[0]}"]')
            PROGRAMS[names[0]].checked(self.reach.flags)
        if TORCH in self.run.engines and self.reach.by != "local":
            raise ValueError(f'run.engines: {TORCH} runs on this machine only, and reach.by is "{self.reach.by}"')
        if self.reach.by == "qemu" and "openvino" in self.run.engines:
            raise ValueError("run.engines: openvino is not part of emulated devices, where it would compute in float")
        if set(self.run.engines) == {TORCH}:
            raise ValueError(f"run.engines: {TORCH} is only a reference; name an engine that runs exported files, too")
        return self


def load(path: Path) -> Device:
    """Read and check a device file. Relative `reach.config` and `reach.benchmark` are resolved from the file's folder.

    Raises:
        InputError: unreadable file, bad TOML, unknown key, wrong type or value.
    """
    loaded, folder = validate(Device, parse(path), path), path.resolve().parent
    given = {"config": loaded.reach.config, "benchmark": loaded.reach.benchmark}
    known = {
        key: str(folder / Path(value).expanduser())
        for key, value in given.items()
        if value is not None and not value.startswith(THERE)
    }
    return loaded.model_copy(update={"reach": loaded.reach.model_copy(update=known)}) if known else loaded


def format_of(engine: str) -> str:
    """The files that one of `RunSection.engines` runs: a format, or ``pt2``, which is never exported."""
    return PROGRAMS[engine].FORMAT if engine in PROGRAMS else engine_menu.engine(engine).FORMAT


def schema() -> dict[str, Any]:
    """JSON schema of a device file, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Device.model_json_schema()}
