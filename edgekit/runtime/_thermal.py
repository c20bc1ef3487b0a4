"""How hot, how fast and whether throttled this machine is, as Linux reports it. Standard library only.

Each function takes the root of the file system, "/" except in tests. What cannot be read is None, never a guess.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_CPU_SENSORS = ("coretemp", "cpu_thermal", "k10temp", "zenpower")
"""hwmon drivers of processors, for machines without thermal zones."""
_CAPPED, _BEFORE = 0b1110, 16
"""Raspberry Pi's ``get_throttled``: bits 1..3 say that the clock is capped, throttled or at the soft temperature limit
now; the same bits plus 16, that it has been since boot (Raspberry Pi documentation, "vcgencmd")."""


class Throttle(NamedTuple):
    """What the machine says about throttling at one moment; see `throttled`."""

    counts: int | None = None
    """x86: how often cores and packages have throttled since boot."""
    flags: int | None = None
    """Raspberry Pi: get_throttled."""
    cooling: int | None = None
    """Sum of the states of the kernel's cooling devices that slow the CPU; 0 is full speed."""


def temperature_c(root: str = "/") -> float | None:
    """The hottest thermal zone, in degrees Celsius; if there is none, the processor's hwmon sensor."""
    readings = list(_numbers(_glob(root, "sys/class/thermal/thermal_zone*/temp")))
    if not readings:
        for folder in _glob(root, "sys/class/hwmon/hwmon*"):
            if text(os.path.join(folder, "name")) in _CPU_SENSORS:
                readings += _numbers(_glob(folder, "temp*_input"))
    return max(readings) / 1000 if readings else None


def clock_mhz(root: str = "/") -> float | None:
    """The fastest core's clock now: that of cpufreq, or of /proc/cpuinfo (a constant in a virtual machine)."""
    clocks = list(_numbers(_glob(root, "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")))
    if clocks:
        return max(clocks) / 1000
    listed = re.findall(r"^cpu MHz\s*:\s*([0-9.]+)", text(os.path.join(root, "proc/cpuinfo")), re.MULTILINE)
    return max(map(float, listed)) if listed else None


def throttle(root: str = "/") -> Throttle:
    """Counters and flags as they are now. On a Raspberry Pi without the sysfs file it runs ``vcgencmd``."""
    counters = _glob(root, "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count")
    cooling = [
        value
        for folder in _glob(root, "sys/class/thermal/cooling_device*")
        if re.match("thermal-cpufreq|cpufreq|Processor", text(os.path.join(folder, "type")))
        for value in _numbers([os.path.join(folder, "cur_state")])
    ]
    counts = list(_numbers(counters))
    return Throttle(sum(counts) if counts else None, _flags(root), sum(cooling) if cooling else None)


def throttled(before: Throttle, after: Throttle) -> bool | None:
    """Whether the machine has slowed itself down between two moments; None if unknown."""
    told: list[bool] = []
    if before.counts is not None and after.counts is not None:
        told.append(after.counts > before.counts)
    if before.flags is not None and after.flags is not None:
        since = (after.flags & ~before.flags) >> _BEFORE
        told.append(bool((before.flags | after.flags | since) & _CAPPED))
    if before.cooling is not None and after.cooling is not None:
        told.append(before.cooling + after.cooling > 0)
    return any(told) if told else None


def _flags(root: str) -> int | None:
    line = text(os.path.join(root, "sys/devices/platform/soc/soc:firmware/get_throttled"))
    tool = None if line else shutil.which("vcgencmd")
    if tool:
        try:
            line = subprocess.run([tool, "get_throttled"], capture_output=True, text=True, timeout=5).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return None
    try:
        return int(line.rpartition("=")[2], 16)  # throttled=0x50005
    except ValueError:
        return None


def text(path: str) -> str:
    """A small file's text, stripped; empty if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def _glob(root: str, pattern: str) -> list[str]:
    return sorted(glob.glob(os.path.join(glob.escape(root), pattern)))


def _numbers(paths: Iterable[str]) -> Iterator[int]:
    for path in paths:
        value = text(path)
        if re.fullmatch(r"-?[0-9]+", value):
            yield int(value)
