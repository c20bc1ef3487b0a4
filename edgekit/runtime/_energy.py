"""Energy counters of this machine: RAPL, INA sensors, Jetson rails. Standard library only.

- RAPL (Intel, AMD): ``/sys/class/powercap/intel-rapl:*/energy_uj`` counts microjoules of a processor package and starts
  again at ``max_energy_range_uj`` (Linux kernel documentation, "Power Capping Framework").
- INA sensors: hwmon gives power in microwatts, or millivolts and milliamperes a channel, which are sampled in a thread
  and integrated (Linux kernel documentation, "ina2xx" and "ina3221"). Jetson boards have an INA3221 whose channel
  VDD_IN is the whole board's; older ones show it under iio, in milliwatts (NVIDIA Jetson Linux Developer Guide).

If there are several rails and the name of one says that it feeds the others, it is read; if not, the sum of all. Idle
power is not subtracted.
"""

from __future__ import annotations

import glob
import os
import threading
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

from edgekit.runtime._thermal import text

INPUTS = ("VDD_IN", "POM_5V_IN", "5V_IN", "SYS_VIN", "VIN")
"""Rails that feed the whole board."""
PERIOD = 0.05
"""Seconds between two samples of a power sensor."""


class Meter(Protocol):
    """A running measurement of energy."""

    name: str
    """Name of the counter, e.g. ``RAPL package-0``."""

    def start(self) -> None:
        """Begin."""

    def stop(self) -> float:
        """Joules since `start`.

        Raises:
            OSError: the counter can no longer be read.
            ValueError: it does not hold a number.
        """


def find(root: str = "/") -> tuple[Meter | None, str]:
    """The best counter available: RAPL, then an INA sensor.

    Returns:
        The meter and "", or None and the reason, in a few words.
    """
    rapl, refused = _rapl(root)
    if rapl:
        return rapl, ""
    rails = _rails(root)
    if rails:
        whole = [rail for rail in rails if rail.label in INPUTS]
        return Sampled(whole[:1] or rails), ""
    return None, refused or "no counter (RAPL, INA sensor or Jetson rail)"


@dataclass
class Zone:
    """A package of RAPL."""

    path: str
    label: str
    range_uj: int


class Counted:
    """The sum of RAPL's packages. A window must be shorter than the counter takes to wrap."""

    def __init__(self, zones: list[Zone]) -> None:
        self._zones = zones
        self._before: list[tuple[Zone, int]] = []
        self.name = "RAPL " + " + ".join(zone.label for zone in zones)

    def start(self) -> None:
        """Begin."""
        self._before = [(zone, _integer(zone.path)) for zone in self._zones]

    def stop(self) -> float:
        """Joules since `start`; a counter that is smaller than before has wrapped once."""
        used = 0
        for zone, before in self._before:
            after = _integer(zone.path)
            used += after - before if after >= before else after + zone.range_uj - before
        return used / 1e6


@dataclass
class Rail:
    """A power sensor: the product of its files is its power in units of `watts`."""

    label: str
    files: tuple[str, ...]
    watts: float

    def read(self) -> float:
        """Watts now."""
        power = self.watts
        for file in self.files:
            power *= _integer(file)
        return power


class Sampled:
    """Power sensors, read every `PERIOD` seconds and integrated by trapezoids."""

    def __init__(self, rails: list[Rail]) -> None:
        self._rails = rails
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._joules, self._last, self._trouble = 0.0, (0.0, 0.0), ""
        self.name = "INA " + " + ".join(rail.label for rail in rails)

    def start(self) -> None:
        """Begin."""
        self._joules, self._last, self._trouble = 0.0, (perf_counter(), self._watts()), ""
        self._over.clear()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """Joules since `start`."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        if self._trouble:
            raise OSError(self._trouble)
        self._add()
        return self._joules

    def _sample(self) -> None:
        try:
            while not self._over.wait(PERIOD):
                self._add()
        except (OSError, ValueError) as error:
            self._trouble = str(error)

    def _add(self) -> None:
        now, watts = perf_counter(), self._watts()
        self._joules += (now - self._last[0]) * (watts + self._last[1]) / 2
        self._last = now, watts

    def _watts(self) -> float:
        return sum(rail.read() for rail in self._rails)


def _rapl(root: str) -> tuple[Counted | None, str]:
    zones, refused = [], ""
    for folder in _glob(root, "sys/class/powercap/*-rapl:[0-9]*"):
        label, path = text(os.path.join(folder, "name")), os.path.join(folder, "energy_uj")
        if not label.startswith("package"):  # its parts, and the whole platform, would count the same energy twice
            continue
        try:
            _integer(path)
            zones.append(Zone(path, label, _integer(os.path.join(folder, "max_energy_range_uj"))))
        except PermissionError:
            refused = f"RAPL exists, but is not readable: sudo chmod a+r {path}"
        except (OSError, ValueError):
            refused = f"RAPL exists, but {path} holds no number"
    return (Counted(zones), "") if zones and not refused else (None, refused)


def _rails(root: str) -> list[Rail]:
    rails = []
    for folder in _glob(root, "sys/class/hwmon/hwmon*"):
        chip = text(os.path.join(folder, "name"))
        if not chip.startswith("ina"):
            continue
        powers = _glob(folder, "power*_input")
        currents = [] if powers else _glob(folder, "curr*_input")
        rails += [Rail(chip, (path,), 1e-6) for path in powers]
        for path in currents:
            channel = os.path.basename(path)[len("curr") : -len("_input")]
            volts, label = (os.path.join(folder, f"in{channel}_{kind}") for kind in ("input", "label"))
            rails.append(Rail(text(label) or f"{chip} {channel}", (volts, path), 1e-6))
    for path in _glob(root, "sys/bus/i2c/drivers/ina3221x/*/iio:device*/in_power*_input"):
        channel = os.path.basename(path)[len("in_power") : -len("_input")]
        label = text(os.path.join(os.path.dirname(path), f"rail_name_{channel}"))
        rails.append(Rail(label or f"channel {channel}", (path,), 1e-3))
    return [rail for rail in rails if _works(rail)]


def _works(rail: Rail) -> bool:
    try:
        rail.read()
    except (OSError, ValueError):
        return False
    return True


def _integer(path: str) -> int:
    with open(path, encoding="ascii") as file:
        return int(file.read())


def _glob(root: str, pattern: str) -> list[str]:
    return sorted(glob.glob(os.path.join(glob.escape(root), pattern)))
