"""The process that measures: one model on one engine, driven over stdin and stdout.

``python -m edgekit.runtime.bench`` reads one JSON object a line and answers each with one line::

    -> {"model": path, "engine": name, "threads": n, "provider": name or null, "seed": n, ["artifact": id]}
    <- {"version", "provider", "batch", "load_ms", "first_ms", "rss_bytes", "available_bytes"}
    -> {"run": {"warmup": n, "seconds": s, "min_samples": n}}                  any number of times
    <- {"ms": [one time per inference], "load_average": 1-minute load or null}
    -> {"stop": true}                                                          or end of file
    <- {"rss_bytes": n}

With "artifact": id in the first line, "model" is a bundle; its hashes are checked, and count neither for `load_ms` nor
as the model's memory. Anything that goes wrong is answered by {"error": "one line"} and exit status 1. One process per
model, engine and thread count, so that load time and peak memory belong to that model alone. `load_ms` leaves out
importing the engine.

The input is one fixed random tensor. The time of convolution and matrix kernels does not depend on the values, float
denormals aside, so floats are drawn from 0..1 and integers from the whole range of their type.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable
from time import perf_counter_ns
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from edgekit.runtime import _menu, machine
from edgekit.runtime._bundle import open_bundle
from edgekit.runtime._errors import RuntimeFault, first_line

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgekit.runtime._port import Port, Session

_MS = 1e6  # nanoseconds


def random_input(port: Port, seed: int) -> npt.NDArray[Any]:
    """A tensor of the port's shape and dtype: floats in 0..1, integers over their whole range."""
    generator = np.random.default_rng(seed)
    dtype = np.dtype(port.dtype)
    if dtype.kind == "f":
        return generator.random(port.shape).astype(dtype)
    limits = np.iinfo(dtype)
    return generator.integers(limits.min, limits.max, port.shape, dtype, endpoint=True)


def measure(run: Callable[[Any], Any], x: Any, warmup: int, seconds: float, min_samples: int) -> list[float]:
    """Times of single calls of ``run(x)`` in milliseconds, in order.

    Args:
        run: what is timed.
        x: its argument.
        warmup: calls before the first one that counts.
        seconds: go on for so long, ...
        min_samples: ... and until there are so many samples.
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
                return [ns / _MS for ns in samples]
    finally:
        if collecting:
            gc.enable()


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
            if "run" not in request:
                break
            answer(ms=measure(session.run, x, **request["run"]), load_average=load_average())
        answer(rss_bytes=machine.peak_rss_bytes())
    except RuntimeFault as fault:
        answer(error=str(fault))
        return 1
    except Exception as error:  # whatever it is, the host shows it in one line
        answer(error=f"{type(error).__name__}: {first_line(error)}")
        return 1
    return 0


def open_session(
    model: str, engine: str, threads: int, provider: str | None, seed: int, artifact: str | None = None
) -> tuple[Session, npt.NDArray[Any], dict[str, Any]]:
    """What the first line asks for: the session, its input, and the answer to that line.

    Raises:
        RuntimeFault: the bundle, the model or the engine cannot be used.
    """
    module = _menu.engine(engine)
    content: str | bytes = model
    if artifact is not None:
        bundle = open_bundle(model, verify="hash")
        file = bundle.artifact(artifact, (module.FORMAT,))["file"]
        content, model = bundle.read(file), f"{model}: {file}"
        del bundle  # its memory is not the model's
    version = module.version()  # imports the engine, so that loading is timed alone
    start = perf_counter_ns()
    session = module.load(content, threads, provider, model)
    del content
    loaded = perf_counter_ns()
    x = random_input(session.input, seed)
    before = perf_counter_ns()
    session.run(x)
    after = perf_counter_ns()
    return session, x, {
        "version": version,
        "provider": session.provider,
        "batch": session.input.shape[0] if session.input.shape else 1,
        "load_ms": (loaded - start) / _MS,
        "first_ms": (after - before) / _MS,
        "rss_bytes": machine.peak_rss_bytes(),
        "available_bytes": machine.available_bytes(),
    }  # fmt: skip


def load_average() -> float | None:
    """Processes that wanted a core in the last minute, where the system says so."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


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
