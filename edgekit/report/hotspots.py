"""What the operator profiles of one device say, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.measurements import OperatorProfile
from edgekit.profile import operators
from edgekit.report.contents import Report
from edgekit.verdict.noise import equal
from edgekit.verdict.rule import FLOAT


def found(report: Report, device: str) -> list[OperatorProfile]:
    """Non-empty operator profiles of one device."""
    return [each for each in report.operators if each.device == device and each.rows]


def reasons(report: Report, device: str) -> list[str]:
    """Why each quantized file is faster or slower there than the first float file, one sentence each."""
    profiles = found(report, device)
    floats = [each for each in profiles if _precision(report, each) in FLOAT]
    others = [each for each in profiles if _precision(report, each) not in FLOAT]
    return [f"{operators.because(floats[0], each, _same(report, floats[0], each))}." for each in others if floats]


def cautions(profiles: Sequence[OperatorProfile]) -> list[str]:
    """What to keep in mind when reading the profiles."""
    return [f"Caution: {text}." for each in profiles if (text := operators.rough(each))]


def _same(report: Report, one: OperatorProfile, other: OperatorProfile) -> bool:
    """Whether the timings of the two profiles are indistinguishable."""
    timings = [
        t
        for each in (one, other)
        for t in report.latency
        if (t.artifact, t.engine, t.device, t.threads, t.batch)
        == (each.artifact, each.engine, each.device, each.threads, 1)
    ]
    return len(timings) == 2 and equal(*timings)


def _precision(report: Report, profile: OperatorProfile) -> str:
    artifact = report.artifact(profile.artifact)
    return artifact.precision if artifact else ""
