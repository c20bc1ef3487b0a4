"""Who else wanted the processor, as Linux counts it: read before and after a measurement. Standard library only.

What cannot be read is None, never a guess: other systems have neither file, and a kernel may be built without PSI.
"""

from __future__ import annotations

import os
from time import perf_counter_ns
from typing import NamedTuple

from edgekit.runtime._thermal import text

_STEAL, _GUEST = 7, 8
"""Places in the first line of /proc/stat (man 5 proc): stolen time, and guest time, which "user" includes."""


class Counters(NamedTuple):
    """What has been counted since boot."""

    now_ns: int
    waiting_us: int | None
    """Time in which at least one process waited for a core (/proc/pressure/cpu, "some")."""
    stolen: int | None
    """Ticks in which the host of this virtual machine ran others instead."""
    ticks: int
    """All of them, over all cores."""


def counters(root: str = "/") -> Counters:
    """The counters now; `root` is that of the file system."""
    some = text(os.path.join(root, "proc/pressure/cpu")).partition("\n")[0]
    waiting = some.rpartition("total=")[2]
    times = text(os.path.join(root, "proc/stat")).partition("\n")[0].split()[1 : 1 + _GUEST]
    known = len(times) == _GUEST and all(map(str.isdigit, times))
    return Counters(
        perf_counter_ns(),
        int(waiting) if some.startswith("some ") and waiting.isdigit() else None,
        int(times[_STEAL]) if known else None,
        sum(map(int, times)) if known else 0,
    )


def shares(before: Counters, after: Counters) -> dict[str, float | None]:
    """``cpu_pressure`` and ``cpu_steal`` between two readings, 0..1, as in `edgekit.measurements.Timing`."""
    pressure = steal = None
    span_us = (after.now_ns - before.now_ns) / 1000
    if before.waiting_us is not None and after.waiting_us is not None and span_us > 0:
        pressure = min(max((after.waiting_us - before.waiting_us) / span_us, 0.0), 1.0)
    ticks = after.ticks - before.ticks
    if before.stolen is not None and after.stolen is not None and ticks > 0:
        steal = min(max((after.stolen - before.stolen) / ticks, 0.0), 1.0)
    return {"cpu_pressure": pressure, "cpu_steal": steal}
