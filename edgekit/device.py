"""A device: one TOML file of facts and limits, and how to reach it. Never results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from edgekit._toml import Section, parse, validate
from edgekit.recipe import menu


class ReachSection(Section):
    """How commands get to the device."""

    by: Annotated[str, AfterValidator(menu("edgekit.reach"))] = Field("local", description="a module of edgekit/reach")


class RunSection(Section):
    """What is measured there, and for how long."""

    engines: list[Literal["onnxruntime", "litert", "tflite_runtime"]] = Field(["litert", "onnxruntime"], min_length=1)
    threads: list[Annotated[int, Field(ge=1, le=256)]] = Field([1], min_length=1)
    warmup: int = Field(10, ge=0, description="inferences before the first one that counts")
    seconds: float = Field(3.0, gt=0, description="measured time of each artifact x engine x threads")
    rounds: int = Field(5, ge=1, description="the time is cut into so many rounds, interleaved over all artifacts")
    cooldown: float = Field(0.0, ge=0, description="seconds of rest before each round")


class LimitsSection(Section):
    """What a model must hold to be shipped on this device."""

    p90_ms: float | None = Field(None, gt=0)
    size_mb: float | None = Field(None, gt=0, description="file size in 1e6 bytes")
    rss_mb: float | None = Field(None, gt=0, description="peak resident set in 1e6 bytes")


class Device(Section):
    """A whole device file."""

    name: str
    arch: Literal["x86_64", "aarch64", "any"] = "any"
    soc: str = ""
    reach: ReachSection = Field(default_factory=ReachSection)
    run: RunSection = Field(default_factory=RunSection)
    limits: LimitsSection = Field(default_factory=LimitsSection)


def load(path: Path) -> Device:
    """Read and check a device file.

    Raises:
        InputError: unreadable file, bad TOML, unknown key, wrong type or value.
    """
    return validate(Device, parse(path), path)


def schema() -> dict[str, Any]:
    """JSON schema of a device file, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Device.model_json_schema()}
