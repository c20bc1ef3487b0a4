"""Times the files of networks on all devices, each against the others in one session."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.console import Console
from edgekit.device.file import Device
from edgekit.errors import InputError, Shortfall, Unreached
from edgekit.fit.records import Measurement
from edgekit.measurements import Timing
from edgekit.profile.run import profile
from edgekit.search.trial_files import TrialFile, engines_for, exact

SECONDS, ROUNDS, WARMUP = 1.5, 8, 3
"""Of each file."""
WIDE = 1.08
"""Upper over lower bound of a median from which a file is measured on, up to three times as long."""
MB = 1e6


def one_count(device: Device) -> Device:
    """The device with one thread count, the first that it names, else 1: a budget is for one."""
    run = device.run.model_copy(update={"threads": (device.run.threads or [1])[:1]})
    return device.model_copy(update={"run": run})


@dataclass
class Clock:
    """The devices of a search, and what was spent on them.

    Args:
        devices: by name, each with `one_count` of threads.
        percentile: of the times, what is returned.
        console: progress.
    """

    devices: Mapping[str, Device]
    percentile: int
    console: Console
    seen: dict[str, Measurement] = field(default_factory=dict)
    """The latest row of each device: its processor, and the format, engine and version that are used there."""
    files: int = 0
    seconds: float = 0.0

    @contextmanager
    def counted(self, files: int) -> Iterator[None]:
        """Count what is measured inside."""
        began = time.monotonic()
        yield
        self.files += files
        self.seconds += time.monotonic() - began

    def __call__(self, files: Mapping[str, Mapping[str, Path]]) -> dict[str, tuple[Measurement, ...]]:
        """Time networks.

        Args:
            files: of each network, by any name, its file in each format.

        Returns:
            For each network, a measurement on each device, in the order of the devices. The first call decides on the
            format and the engine of each device: the fastest ones for all its networks, by the product of their times,
            as one that is as fast for a whole network may be slow for a narrow one.

        Raises:
            InputError: a device has no engine for any of the formats.
            Unreached: a device cannot be reached.
            Shortfall: a file cannot be measured on a device.
        """
        with self.counted(len(files)):
            rows = {name: self._on(name, device, files) for name, device in self.devices.items()}
        self.seen |= {name: next(iter(found.values())) for name, found in rows.items()}
        return {network: tuple(rows[name][network] for name in self.devices) for network in files}

    def _on(self, name: str, device: Device, files: Mapping[str, Mapping[str, Path]]) -> dict[str, Measurement]:
        formats = list(next(iter(files.values())))
        if name in self.seen:
            formats, engines = [self.seen[name].format], [self.seen[name].engine]
        else:
            able = engines_for(formats, device)
            engines = exact(able)
            if not engines:
                raise InputError(
                    f"{name}: has no engine for {' or '.join(formats)} files (its engines: "
                    f"{', '.join(device.run.engines)}); change export.formats, or run.engines of the device"
                )
        trials, paths = [], {}
        for network, made in files.items():
            for form in formats:
                paths[f"{network} {form}"] = made[form]
                trials.append(TrialFile(f"{network} {form}", form, str(made[form].resolve())))
        run = device.run.model_copy(
            update={"engines": engines, "batch": [1], "warmup": WARMUP, "seconds": SECONDS}
            | {"rounds": ROUNDS, "sustained": 0.0}
        )
        found = profile(trials, Path(), {name: device.model_copy(update={"run": run})}, self.console, doubts=_wide)
        lost = [failure for failure in found.failures if failure.lost]
        if lost:
            raise Unreached(f"{name}: {lost[0].reason}")
        cpu = found.machines[name].cpu if name in found.machines else ""
        if name not in self.seen:
            chosen = _fastest(found.timings, len(files))
            if chosen is None:
                why = found.failures[0].reason if found.failures else "no times"
                raise Shortfall(f"{name}: {' and '.join(files)} could not be measured: {why}")
            formats, engines = [chosen[0]], [chosen[1]]
        (form,), (engine,) = formats, engines
        rows = {
            row.artifact.rpartition(" ")[0]: self._measurement(row, cpu, form, paths[row.artifact])
            for row in found.timings
            if row.engine == engine and row.artifact.endswith(f" {form}")
        }
        missing = [network for network in files if network not in rows]
        if missing:
            why = next((f.reason for f in found.failures if f.artifact.startswith(f"{missing[0]} ")), "no times")
            raise Shortfall(f"{name}: {missing[0]} could not be measured in {engine}: {why}")
        return rows

    def _measurement(self, row: Timing, cpu: str, form: str, path: Path) -> Measurement:
        return measurement(row, self.percentile, cpu, form, path.stat().st_size)


def _fastest(rows: Sequence[Timing], networks: int) -> tuple[str, str] | None:
    """Format and engine with the least product of all networks' times; None if none has run them all."""
    times: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        times.setdefault((row.artifact.rpartition(" ")[2], row.engine), []).append(row.p50_ms)
    whole = {pair: math.prod(each) for pair, each in times.items() if len(each) == networks}
    return min(whole, key=lambda pair: whole[pair], default=None)


def _wide(rows: Sequence[Timing]) -> list[Timing]:
    return [row for row in rows if row.p50_ci is not None and row.p50_ci[1] > WIDE * row.p50_ci[0]]


def measurement(row: Timing, percentile: int, cpu: str, form: str, size: int) -> Measurement:
    """A row of a profile as a measurement of one percentile.

    Raises:
        Shortfall: that percentile is unknown on this device.
    """
    ms = {50: row.p50_ms, 90: row.p90_ms, 99: row.p99_ms}[percentile]
    if ms is None:
        raise Shortfall(f"{row.device}: only the median of the times is known there; use --percentile 50")
    ci = {50: row.p50_ci, 90: row.p90_ci, 99: row.p99_ci}[percentile]
    low, high = ci if ci and row.kind == "measured" else (ms, ms)
    rss, file = row.rss_bytes / MB, size / MB
    return Measurement(
        row.device, cpu, row.engine, row.engine_version, form, row.kind, ms, high, low, rss, file, row.threads
    )
