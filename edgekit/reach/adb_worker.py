"""A process on this machine that measures on a phone with a program; speaks as `edgekit.runtime.bench`.

``python -m edgekit.reach.adb_worker SETTINGS -m MODULE ...``: SETTINGS is JSON with the keys of `Settings`; MODULE is
what would run on a device with Python; its requests are answered as far as possible.

One round is `RUNS` runs of the program, each of which loads the model, warms up, and measures for its share of the
round's time. Each run gives one sample: the median of its inferences if it prints one (and that is not too short for
the digits that it prints), else their mean. Answers to "run" have the keys of `edgekit.runtime.bench` and
"runs": [{"count", "of", "mean_ms", "min_ms", "max_ms", "p95_ms"}].

Exit status 3 and a line on stderr: the phone was lost.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any

from edgekit.reach import adb_phone, adb_shell
from edgekit.reach.adb_shell import Hung, Lost
from edgekit.reach.program import Ask, Fault, Program, Said, Spread
from edgekit.reach.programs import PROGRAMS
from edgekit.runtime import machine

RUNS = 3
"""Runs of the program in each round."""
LEAST = 3
"""Least inferences in each run, however slow."""
SETTLE = 1.0
"""Most seconds of the first warm-up: it warms only the phone, as each run is a process of its own."""
OPEN = 80.0
"""Seconds for each of the two runs that first load the model; `edgekit.profile` waits for both together."""
PATIENCE = 45.0
"""Seconds to wait for an answer beyond the expected time; less than `edgekit.profile` waits."""
LOST = 3


@dataclass(frozen=True)
class Settings:
    """The settings of the process."""

    program: str
    """A key of `edgekit.reach.programs.PROGRAMS`."""
    serial: str | None
    binary: str
    """Path on the phone."""
    version: str
    flags: tuple[str, ...]
    allow_fallback: bool
    files: dict[str, str]
    """Local path of each model, by its path on the phone."""


class Bench:
    """One model at one thread count."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._program = PROGRAMS[settings.program]
        self._ask = Ask("", 1)
        self._first_ms = 0.0
        self._rss = 0
        self._of = ""

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one line of the protocol.

        Raises:
            Fault: it cannot be measured.
            Lost: the connection to the phone was lost.
        """
        if "model" in request:
            return self._open(request["model"], request["threads"], request.get("batch"))
        if "warm_up" in request:
            least, seconds = request["warm_up"]["least"], request["warm_up"]["seconds"]
            limit = self._limit(least, seconds)
            said, _ = self._run(limit, replace(self._ask, warmup=least, warmup_seconds=min(seconds, SETTLE)))
            return {"used": said.warmup, "stable": None}
        if "run" in request:
            return self._round(**request["run"])
        if "minute" in request:
            return self._minute(request["minute"]["seconds"])
        if "energy" in request:
            return {"mj": None, "of": f"not measured: {self._program.NAME} has no counter"}
        if "steps" in request:
            return {"steps": None}
        if "end_to_end" in request:
            return {"end_to_end": None, "of": f"not measured: {impossible(self._program)}"}
        return {"rss_bytes": self._rss}

    def _open(self, model: str, threads: int, batch: int | None) -> dict[str, Any]:
        self._ask = Ask(model, threads)
        here = self._settings.files.get(model, model)
        try:
            data = Path(here).read_bytes()
        except OSError as error:
            raise Fault(f"{here}: cannot be read: {error.strerror}") from None
        own = self._program.batch(data, here)
        if batch not in (None, own):
            raise Fault(f"{model}: a batch of {batch} was asked for, the file's is fixed at {own}")
        said, text = self._run(OPEN, self._ask)
        provider = self._program.provider(text, self._settings.flags, self._settings.allow_fallback, data)
        peak = self._peak()
        self._rss = 0 if peak is None else round(peak * 2**20)
        self._first_ms = said.first_us / 1000
        return {
            "version": self._settings.version,
            "provider": provider,
            "placement": {},
            "batch": own,
            "load_ms": said.init_us / 1000,
            "cached": None,
            "first_ms": self._first_ms,
            "model_bytes": None if said.footprint_mb is None else round(said.footprint_mb * 2**20),
            "rss_bytes": self._rss,
            "available_bytes": None,  # nothing stays in memory between two runs
            "temperature_c": None,
        }

    def _peak(self) -> float | None:
        """Peak in MiB, from a separate run; None if this program or version cannot tell."""
        if not self._program.PEAK:
            return None
        try:
            return self._run(OPEN, self._ask, self._program.PEAK)[0].peak_mb
        except Fault:
            return None

    def _round(self, warmup: int, seconds: float, min_samples: int) -> dict[str, Any]:
        end = monotonic() + self._limit(warmup + LEAST + min_samples, seconds)
        runs = []
        for _ in range(RUNS):
            ask = replace(self._ask, warmup=warmup, runs=LEAST, seconds=seconds / RUNS)
            said, _ = self._run(max(1.0, end - monotonic()), ask)
            runs.append(said.times)
        samples = [self._sample(times) for times in runs]
        load = adb_phone.load_average(self._settings.serial)
        return {
            "ms": [ms for ms, _ in samples],
            "load_average": load,
            "rss_bytes": self._rss,
            "runs": [r for _, r in samples],
        }

    def _minute(self, seconds: float) -> dict[str, Any]:
        end, samples = monotonic() + seconds, list[float]()
        while not samples or monotonic() < end:  # a run without a clock of its own may be too short
            left = max(end - monotonic(), 0.0)
            said, _ = self._run(self._limit(LEAST, left), replace(self._ask, warmup=0, runs=LEAST, seconds=left))
            samples.append(self._sample(said.times)[0])
        unknown = dict.fromkeys(("p90_ms", "temperature_c", "clock_mhz", "throttled"))
        return {"p50_ms": median(samples), **unknown}

    def _sample(self, times: Spread) -> tuple[float, dict[str, Any]]:
        if not self._of:
            fine = times.median is not None and times.median >= self._program.FINE
            self._of = "median" if fine else "mean" if times.warmed else "mean (warm-up included)"
        value = times.median if self._of == "median" and times.median else times.mean
        if not (times.count and value > 0):
            name = self._program.NAME
            raise Fault(f"{name} reports {times.count} inferences of {value:g} microseconds: too short for its clock")
        return value / 1000, {
            "count": times.count,
            "of": self._of,
            "mean_ms": times.mean / 1000,
            "min_ms": times.min / 1000,
            "max_ms": times.max / 1000,
            "p95_ms": times.p95 / 1000 if times.p95 else None,  # in whole microseconds it may be 0
        }

    def _limit(self, count: int, seconds: float) -> float:
        return PATIENCE + 2 * seconds + 8 * count * self._first_ms / 1000

    def _run(self, limit: float, ask: Ask, extra: tuple[str, ...] = ()) -> tuple[Said, str]:
        asked, program = self._settings, self._program
        try:
            argv = [asked.binary, *program.arguments(ask), *asked.flags, *extra]
            status, text = adb_shell.run(asked.serial, argv, limit)
        except Hung as hung:
            raise Fault(f"{program.NAME}: {hung}") from None
        if status:
            raise Fault(program.failure(status, text, asked.binary))
        said = program.read(text, ask)
        self._ask = replace(self._ask, each_ms=said.times.mean / 1000)
        return said, text


def impossible(program: Program) -> str:
    """Answer to all else that edgekit does on devices: accuracy, golden vectors, operators, end to end."""
    return f"not possible: {program.NAME} only times {program.INPUT}; this needs Python on the phone (Termux)"


def check(settings: Settings) -> str:
    """What is wrong with the program on the phone; empty if it answers."""
    program = PROGRAMS[settings.program]
    try:
        status, text = adb_shell.run(settings.serial, [settings.binary, "--help"], adb_shell.SHORT)
    except Hung as hung:
        return f"{settings.binary} --help: {hung}"
    if program.HELP in text:  # its status is 1 even if all is well
        return ""
    if status:
        return program.failure(status, text, settings.binary)
    return f"{settings.binary} is not {program.NAME}: its --help does not list {program.HELP}"


def _facts(settings: Settings, ask: str) -> None:
    if ask == "--hold":
        # One phone, one cable: anybody else who measures on it does so from this machine.
        base = os.environ.get("EDGEKIT_LOCK") or os.path.join(tempfile.gettempdir(), "edgekit.lock")
        os.environ["EDGEKIT_LOCK"] = f"{base}-{re.sub(r'[^A-Za-z0-9]', '-', settings.serial or 'adb')}"
        lock = machine.hold()
    facts = adb_phone.facts(settings.serial, settings.program)
    trouble = check(settings) if ask == "--probe" else ""
    _say({**facts, "engines": {settings.program: None if trouble else settings.version}, "trouble": trouble})
    if ask == "--hold":
        sys.stdin.read()
        if lock is not None:
            lock.close()


def _say(fields: dict[str, Any]) -> None:
    print(json.dumps(fields), flush=True)


def _main(settings: Settings, kind: str, module: str, ask: str = "") -> int:
    try:
        if kind == "-m" and module == "edgekit.runtime.machine":
            _facts(settings, ask)
            return 0
        if kind != "-m" or module != "edgekit.runtime.bench":
            sys.stdin.readline()  # the request: the caller is still writing it
            raise Fault(impossible(PROGRAMS[settings.program]))
        bench = Bench(settings)
        for line in sys.stdin:
            _say(bench.answer(json.loads(line)))
    except Lost as lost:
        print(lost, file=sys.stderr)
        return LOST
    except (Fault, Hung) as fault:
        _say({"error": str(fault)})
        return 1
    except (KeyboardInterrupt, BrokenPipeError):
        return 1
    return 0


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    sys.exit(_main(Settings(**{**given, "flags": tuple(given["flags"])}), *sys.argv[2:]))
