"""What is measured on a loaded model: warm-up, rounds, end to end, energy, minutes under load; see `bench`."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Sequence
from itertools import cycle
from statistics import median
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.runtime import _energy, _thermal
from edgekit.runtime._steady import BATCHES, WINDOW, steady
from edgekit.runtime.errors import first_line

if TYPE_CHECKING:
    from edgekit.runtime._model import Model
    from edgekit.runtime.bundle import Bundle

MS = 1e6  # nanoseconds
SPAN = 0.1
"""Minimum span, in seconds, of the steadiness test's window: the clock's governor needs some 10 ms to react."""
SLICES = 12
"""Slices of a minute; the clock is read after each."""
STEPS = ("decode_ms", "preprocess_ms", "infer_ms", "postprocess_ms")

Run = Callable[[Any], Any]


def measure(run: Run, x: Any, warmup: int, seconds: float, min_samples: int) -> list[float]:
    """Times of single calls of ``run(x)`` in milliseconds, in order; none is left out.

    Args:
        run: what is timed.
        x: its argument.
        warmup: calls before the first one that counts.
        seconds: minimum duration.
        min_samples: minimum number of samples.
    """
    clock = perf_counter_ns
    samples: list[int] = []
    for _ in range(warmup):
        run(x)
    collecting = gc.isenabled()
    gc.disable()
    try:
        end = clock() + int(seconds * 1e9)
        while True:
            start = clock()
            run(x)
            stop = clock()
            samples.append(stop - start)
            if stop >= end and len(samples) >= min_samples:
                return [ns / MS for ns in samples]
    finally:
        if collecting:
            gc.enable()


def warm_up(run: Run, x: Any, least: int, seconds: float) -> tuple[int, bool]:
    """Call ``run(x)`` until its time is steady (`edgekit.runtime._steady`).

    The window that is tested holds `WINDOW` times, more if together they are shorter than `SPAN`, and fewer (at least
    `BATCHES`) if that many would take more than half of `seconds`.

    Args:
        run: what is timed.
        x: its argument.
        least: minimum number of calls.
        seconds: give up after this time.

    Returns:
        How many calls it took, and whether they became steady.
    """
    clock = perf_counter_ns
    times: list[int] = []
    now = clock()
    end = now + int(seconds * 1e9)
    check = max(least, BATCHES)
    while now < end or len(times) < least:
        start = clock()
        run(x)
        now = clock()
        times.append(now - start)
        if len(times) < check:
            continue
        each = median(times[-WINDOW:]) / 1e9
        window = max(BATCHES, min(max(WINDOW, int(SPAN / each)), int(seconds / each / 2)))
        if steady(times, window):
            return len(times), True
        check = max(window, len(times) + window // BATCHES)
    return len(times), False


def golden_images(bundle: Bundle) -> list[bytes]:
    """The encoded images of a bundle's golden vectors; empty if it has none."""
    return [bundle.read(name) for name in bundle.manifest.get("golden", {}).get("images", ())]


def end_to_end(model: Model, images: Sequence[bytes], seconds: float) -> dict[str, float]:
    """Whole predictions, and their steps, over encoded images in turn.

    Each image is predicted twice: as a user does, for ``total_ms``, and with the clock read between the steps, so that
    reading it does not count towards the total.

    Args:
        model: what predicts.
        images: at least one.
        seconds: minimum duration; each image is predicted at least once.

    Returns:
        Medians, named as in `edgekit.measurements.Steps`.

    Raises:
        RuntimeFault: an image cannot be decoded, or the engine failed.
    """
    for image in images:  # the first ones import Pillow's plugins
        model(image)
    end = perf_counter_ns() + int(seconds * 1e9)
    totals: list[float] = []
    steps: list[tuple[float, ...]] = []
    for image in cycle(images):
        totals.append(model(image).ms)
        steps.append(model.steps(image))
        if perf_counter_ns() >= end and len(steps) >= len(images):
            break
    medians = {name: float(np.median([row[place] for row in steps])) for place, name in enumerate(STEPS)}
    return {**medians, "total_ms": median(totals)}


def minute(run: Run, x: Any, seconds: float, root: str = "/") -> dict[str, Any]:
    """One minute, or less, of inference after inference.

    Args:
        run: what is timed.
        x: its argument.
        seconds: how long.
        root: root of the file system with the sensors.

    Returns:
        ``p50_ms``, ``p90_ms``, ``temperature_c`` at the end, ``clock_mhz`` (mean of `SLICES` readings between
        inferences) and ``throttled``; None for what the machine does not report.
    """
    before = _thermal.throttle(root)
    times: list[float] = []
    clocks: list[float | None] = []
    for _ in range(SLICES):
        times += measure(run, x, 0, seconds / SLICES, 1)
        clocks.append(_thermal.clock_mhz(root))
    known = [clock for clock in clocks if clock is not None]
    p50, p90 = np.percentile(times, [50, 90])
    return {
        "p50_ms": float(p50),
        "p90_ms": float(p90),
        "temperature_c": _thermal.temperature_c(root),
        "clock_mhz": sum(known) / len(known) if known else None,
        "throttled": _thermal.throttled(before, _thermal.throttle(root)),
    }


def energy(run: Run, x: Any, seconds: float, root: str = "/") -> tuple[float | None, str]:
    """Energy of one inference by the machine's counter, in a window of its own so that reading does not disturb times.

    The machine's idle power and anything else that runs are included.

    Args:
        run: what is measured.
        x: its argument.
        seconds: length of the window.
        root: root of the file system with the counters.

    Returns:
        Millijoules, and the counter's name; or None, and "not measured: " with the reason.
    """
    meter, why = _energy.find(root)
    if meter is None:
        return None, f"not measured: {why}"
    count = 0
    run(x)
    try:
        meter.start()
        end = perf_counter_ns() + int(seconds * 1e9)
        while perf_counter_ns() < end:
            run(x)
            count += 1
        joules = meter.stop()
    except (OSError, ValueError) as error:
        return None, f"not measured: {meter.name}: {first_line(error)}"
    if joules <= 0 or not count:
        return None, f"not measured: {meter.name} did not move"
    return 1000 * joules / count, meter.name


def cached(path: str) -> bool | None:
    """Whether a file is in the page cache, judged by one byte at up to 64 places; None if Linux does not say.

    Asking does not bring it in (preadv2 with RWF_NOWAIT).
    """
    flag = getattr(os, "RWF_NOWAIT", None)
    if flag is None:
        return None
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        size = os.fstat(file).st_size
        return all(os.preadv(file, [bytearray(1)], place, flag) for place in _places(size))
    except BlockingIOError:
        return False
    except OSError:  # the file system cannot say
        return None
    finally:
        os.close(file)


def rss_bytes() -> int | None:
    """Resident memory of this process now; None if Linux does not say."""
    words = _thermal.text("/proc/self/statm").split()
    return int(words[1]) * os.sysconf("SC_PAGE_SIZE") if len(words) > 1 else None


def load_average() -> float | None:
    """Mean number of processes that wanted a core in the last minute; None if the system does not say."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def _places(size: int) -> Iterable[int]:
    return range(0, size, max(4096, size // 64))
