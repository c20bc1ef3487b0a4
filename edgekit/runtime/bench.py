"""The process that measures: one model on one engine, driven over stdin and stdout.

``python -m edgekit.runtime.bench`` reads one JSON object per line and answers each with one line::

    -> {"model": path, "engine": name, "threads": n, "provider": name or null, "seed": n, ["artifact": id],
        ["batch": n]}
    <- {"version", "provider", "placement", "batch", "load_ms", "cached", "first_ms", "model_bytes", "rss_bytes",
        "available_bytes", "temperature_c"}
    -> {"warm_up": {"least": n, "seconds": s}}
    <- {"used": inferences, "stable": bool}
    -> {"run": {"warmup": n, "seconds": s, "min_samples": n}}                  any number of times
    <- {"ms": [one time per inference], "load_average": 1-minute load or null, "rss_bytes": peak so far,
        "cpu_pressure": share of the time in which a process waited for a core, or null,
        "cpu_steal": share of CPU time taken by other virtual machines, or null}
    -> {"end_to_end": {"bundle": path, "artifact": id, "seconds": s}}
    <- {"end_to_end": the keys of `edgekit.measurements.Steps` or null, "of": what was predicted, or why not}
    -> {"energy": {"seconds": s}}
    <- {"mj": of one inference or null, "of": the counter, or why there is none}
    -> {"minute": {"seconds": s}}                                              any number of times
    <- {"p50_ms", "p90_ms", "temperature_c", "clock_mhz", "throttled"}
    -> {"steps": n}
    <- {"steps": [[in, compute, out] of n inferences] in milliseconds, or null if the engine cannot tell}
    -> {"stop": true}                                                          or end of file
    <- {"rss_bytes": n}

With "artifact": id in the first line, "model" is a bundle; its hashes are checked, which counts neither for `load_ms`
nor as the model's memory. Any failure is answered with {"error": "one line"} and exit status 1. One process per
model, engine and thread count, so that load time and peak memory belong to that model alone. `load_ms` leaves out
importing the engine; "cached" says whether the model's file was in the page cache before. "model_bytes" is what loading
and the first inference added to the resident set. `_measure` does the rest.

A time is that of a call that returns with the output in the host's memory (`edgekit.runtime.port.Session.run`). On a
GPU it therefore ends when the GPU has finished, and includes copying in and out.

The input is one fixed random tensor. The time of convolution and matrix kernels does not depend on the values, float
denormals aside, so floats are drawn from 0..1 and integers from the whole range of their type.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from importlib.util import find_spec
from time import perf_counter_ns
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from edgekit.runtime import _contention, _measure, _thermal, engine_menu, machine
from edgekit.runtime.bundle import open_bundle
from edgekit.runtime.errors import RuntimeFault, first_line

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgekit.runtime.port import Port, Session


def random_input(port: Port, seed: int) -> npt.NDArray[Any]:
    """A tensor of the port's shape and dtype: floats in 0..1, integers over their whole range."""
    generator = np.random.default_rng(seed)
    dtype = np.dtype(port.dtype)
    if dtype.kind == "f":
        return generator.random(port.shape).astype(dtype)
    limits = np.iinfo(dtype)
    return generator.integers(limits.min, limits.max, port.shape, dtype, endpoint=True)


def measure_steps(session: Any, x: npt.NDArray[Any], count: int) -> list[list[float]] | None:
    """Milliseconds of copying the input in, computing, and copying the output out, of `count` inferences.

    None if the engine does not separate them: those that compute on the CPU, and most others.
    """
    steps = getattr(session, "steps", None)
    if steps is None or steps(x) is None:  # the first one does not count
        return None
    return [[ns / _measure.MS for ns in steps(x)] for _ in range(count)]


def serve(requests: IO[str], answers: IO[str]) -> int:
    """Speak the protocol until told to stop; returns the exit status."""

    def answer(**fields: Any) -> None:
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    try:
        session, x, ready = open_session(**json.loads(requests.readline()))
        answer(**ready)
        for line in requests:
            request = json.loads(line)
            if "warm_up" in request:
                used, stable = _measure.warm_up(session.run, x, **request["warm_up"])
                answer(used=used, stable=stable)
            elif "run" in request:
                before = _contention.counters()
                times = _measure.measure(session.run, x, **request["run"])
                busy = _contention.shares(before, _contention.counters())
                load, rss = _measure.load_average(), machine.peak_rss_bytes()
                answer(ms=times, load_average=load, rss_bytes=rss, **busy)
            elif "steps" in request:
                answer(steps=measure_steps(session, x, request["steps"]))
            elif "end_to_end" in request:
                steps, of = end_to_end(session, **request["end_to_end"])
                answer(end_to_end=steps, of=of)
            elif "energy" in request:
                spent, of = _measure.energy(session.run, x, **request["energy"])
                answer(mj=spent, of=of)
            elif "minute" in request:
                answer(**_measure.minute(session.run, x, **request["minute"]))
            else:
                break
        answer(rss_bytes=machine.peak_rss_bytes())
    except RuntimeFault as fault:
        answer(error=str(fault))
        return 1
    except Exception as error:  # whatever it is, the host shows it in one line
        answer(error=f"{type(error).__name__}: {first_line(error)}")
        return 1
    return 0


def open_session(
    model: str,
    engine: str,
    threads: int,
    provider: str | None,
    seed: int,
    artifact: str | None = None,
    batch: int | None = None,
) -> tuple[Session, npt.NDArray[Any], dict[str, Any]]:
    """What the first line asks for: the session, its input, and the answer to that line.

    Raises:
        RuntimeFault: the bundle, the model or the engine cannot be used, or the file has a different fixed batch.
    """
    module = engine_menu.engine(engine)
    content: str | bytes = model
    version = module.version()
    # In case `version` has not: only loading is timed. Some modules need another one before them.
    getattr(module, "_package", lambda: import_module(module.MODULE))()
    cached = _measure.cached(model)
    if artifact is not None:
        bundle = open_bundle(model, verify="hash")
        entry = bundle.artifact(artifact, (module.FORMAT,))
        content, model = bundle.model(entry), f"{model}: {entry['file']}"
        del bundle  # its memory is not the model's
        cached = True  # it has just been read
    resident = _measure.rss_bytes()
    if resident is not None and isinstance(content, bytes):
        resident -= len(content)
    start = perf_counter_ns()
    session = module.load(content, threads, provider, model)
    loaded = perf_counter_ns()
    del content
    port = session.input
    own = port.shape[0] if port.shape else 1
    if batch not in (None, own):
        if not getattr(session, "open_batch", False):
            raise RuntimeFault(f"{model}: a batch of {batch} was asked for, the file's is fixed at {own}")
        port = port._replace(shape=(batch, *port.shape[1:]))
    x = random_input(port, seed)
    before = perf_counter_ns()
    session.run(x)
    after = perf_counter_ns()
    now = _measure.rss_bytes()
    return session, x, {
        "version": version,
        "provider": session.provider,
        "placement": session.placement,
        "batch": batch or own,
        "load_ms": (loaded - start) / _measure.MS,
        "cached": cached,
        "first_ms": (after - before) / _measure.MS,
        "model_bytes": None if resident is None or now is None else max(now - resident, 0),
        "rss_bytes": machine.peak_rss_bytes(),
        "available_bytes": machine.available_bytes(),
        "temperature_c": _thermal.temperature_c(),
    }  # fmt: skip


def end_to_end(session: Session, bundle: str, artifact: str, seconds: float) -> tuple[dict[str, float] | None, str]:
    """Predictions of a bundle's golden images by `edgekit.runtime.Model`, on an open session.

    Args:
        session: of that artifact.
        bundle: path.
        artifact: its id there.
        seconds: minimum duration.

    Returns:
        As `_measure.end_to_end`, and what was predicted; or None and the reason: Pillow or golden images are missing,
        the bundle cannot be used or is not of this model.
    """
    from edgekit.runtime._model import Model

    if find_spec("PIL") is None:
        return None, "not measured: images are decoded by Pillow, which is not installed (pip install pillow)"
    try:
        opened = open_bundle(bundle, verify="hash")
        images = _measure.golden_images(opened)
        if not images:
            return None, "not measured: the bundle has no golden images"
        model = Model(opened, opened.artifact(artifact), session, {})
        times = _measure.end_to_end(model, images, seconds)
    except RuntimeFault as fault:
        return None, f"not measured: {fault}"
    return times, f"{len(images)} golden image{'s' if len(images) > 1 else ''}"


def _main() -> int:
    # Engines print to file descriptor 1 as they like: keep the real one aside for the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        return serve(sys.stdin, answers)
    except (KeyboardInterrupt, BrokenPipeError):
        return 1


if __name__ == "__main__":
    sys.exit(_main())
