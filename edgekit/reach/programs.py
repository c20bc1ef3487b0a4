"""The programs that measure on phones without Python, by name."""

from __future__ import annotations

from collections.abc import Iterable

from edgekit.reach import benchmark_model, executor_runner
from edgekit.reach.program import Program

PROGRAMS: dict[str, Program] = {benchmark_model.NAME: benchmark_model, executor_runner.NAME: executor_runner}


def named(engines: Iterable[str]) -> Program:
    """The program among the engines of a device that has `reach.benchmark`; its device file was checked."""
    return next(PROGRAMS[name] for name in engines if name in PROGRAMS)
