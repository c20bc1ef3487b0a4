"""Estimated latency of an emulated device: from counted instructions and bytes, never from a clock.

The model is ``ms = a * instructions + b * bytes loaded + c * bytes stored``, with no constant negative, fitted to
published times of the board so that the squares of the *relative* errors are least (Lawson and Hanson, "Solving Least
Squares Problems", 1974, chapter 23: non-negative least squares; with three unknowns, every choice of zero constants is
tried). Device files hold the published times with their sources (``[[estimate.published]]``); those with
``fit = false`` are left out of the fit, to check it.

The error bar is the largest relative error on a published time that the fit did not use: one with ``fit = false``, or
each of the others left out in turn. It holds for networks and engines of that kind. It is doubled, which is a
judgement, for an engine without published times, and for a network far smaller or larger than the published ones: the
model ignores the cost of starting an operator on all threads, so very small networks come out too fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit.errors import Shortfall
from edgekit.measurements import Timing

if TYPE_CHECKING:
    from edgekit.device.file import Device, EstimateSection, Published
    from edgekit.profile.job import ModelFile
    from edgekit.reach.ways.qemu import Counts

FAR = 2.0
"""An estimate beyond the smallest or largest published time by this factor is far from what is known."""
_TERMS = 3


@dataclass(frozen=True)
class Fit:
    """Milliseconds per instruction, per byte loaded and per byte stored, and how far off they may be."""

    constants: tuple[float, ...]
    error: float = 0.0
    """Relative error."""

    def ms(self, counts: Counts | Published) -> float:
        """The estimate for one inference."""
        return sum(a * b for a, b in zip(self.constants, _row(counts), strict=True))


def fit(published: Sequence[Published]) -> Fit:
    """Fit a device's constants, and estimate their error.

    Args:
        published: times with the counts of the same network; at least two with `fit`.

    Raises:
        Shortfall: there are fewer.
    """
    used = [row for row in published if row.fit]
    if len(used) < 2:
        raise Shortfall("an estimate needs at least two published times ([[estimate.published]] with fit = true)")
    fitted = _solve(used)
    errors = [abs(relative_error(fitted, row)) for row in published if not row.fit]
    for place, row in enumerate(used):
        errors.append(abs(relative_error(_solve(used[:place] + used[place + 1 :]), row)))
    return Fit(fitted.constants, max(errors))


def relative_error(fit: Fit, row: Published) -> float:
    """Estimate divided by published time, minus 1."""
    return fit.ms(row) / row.ms - 1


def bar(fit: Fit, ms: float, engine: str, section: EstimateSection) -> float:
    """The relative error bar of an estimate."""
    known = [row.ms for row in section.published]
    far = not min(known) / FAR <= ms <= max(known) * FAR
    return fit.error * (1 if engine in section.engines else 2) * (2 if far else 1)


def _row(counts: Counts | Published) -> tuple[int, ...]:
    return counts.instructions, counts.loaded, counts.stored


def _solve(rows: Sequence[Published]) -> Fit:
    """Non-negative least squares of ``A x = 1``, with the counts per published millisecond as the rows of A."""
    matrix = np.array([_row(row) for row in rows]) / np.array([[row.ms] for row in rows])
    best, constants = np.inf, np.zeros(_TERMS)
    for size in range(1, _TERMS + 1):
        for chosen in combinations(range(_TERMS), size):
            columns = matrix[:, chosen]
            scale = np.linalg.norm(columns, axis=0)
            solution = np.linalg.lstsq(columns / scale, np.ones(len(rows)), rcond=None)[0] / scale
            loss = float(np.square(columns @ solution - 1).sum())
            if (solution >= 0).all() and loss < best - 1e-12:  # of equal fits, the one with fewer terms
                best, constants = loss, np.zeros(_TERMS)
                constants[list(chosen)] = solution
    return Fit(tuple(map(float, constants)))


def estimate(artifact: ModelFile, folder: Path, engine: str, threads: int, device: Device) -> Timing:
    """The row of a profile for an emulated device.

    Args:
        artifact: what would be measured.
        folder: what its path is relative to.
        engine: a name of ``edgekit/runtime/engines``.
        threads: the published times are for one number of threads only.
        device: reached by qemu.

    Returns:
        A timing of kind "estimated" without samples: all percentiles are the estimate, `p50_ci` is the error bar;
        load time and memory are not estimated, so 0.

    Raises:
        Shortfall: the emulation is not set up, there is nothing to estimate from, or the file does not run.
    """
    from edgekit.reach.ways import qemu

    section = device.estimate
    if section is None:
        raise Shortfall(
            "the device file has no [estimate] section: instructions can be counted, but times not estimated"
        )
    if threads != section.threads:
        raise Shortfall(f"no estimate: times are published for {section.threads} threads, not for {threads}")
    fitted = fit(section.published)
    counts = qemu.count(folder / artifact.path, engine, device)
    ms = fitted.ms(counts)
    error = bar(fitted, ms, engine, section)
    return Timing(
        artifact=artifact.id,
        engine=engine,
        engine_version=counts.version,
        provider=counts.provider,
        device=device.name,
        threads=threads,
        batch=counts.batch,
        kind="estimated",
        load_ms=0.0,
        first_ms=0.0,
        min_ms=ms,
        mean_ms=ms,
        p50_ms=ms,
        p90_ms=ms,
        p99_ms=ms,
        warmup=0,
        rounds=0,
        rss_bytes=0,
        load_average=0.0,
        samples=(),
        p50_ci=(ms * max(0.0, 1 - error), ms * (1 + error)),
        instructions=counts.instructions,
    )
