"""Runs inside an emulated device, as a script: what `edgekit.reach.ways.qemu` needs there.

``guest.py count MODEL ENGINE RUNS``      marks the counter before the first and after each of RUNS inferences;
                                           prints {"version", "provider", "batch"}
``guest.py outputs MODEL ENGINE IN OUT``  runs each row of an array of inputs and writes the outputs as .npy
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys

import numpy as np

from edgekit.runtime import engine_menu
from edgekit.runtime.errors import RuntimeFault

MARK = -24278
"""Same value as in the plugin."""
WARMUP = 10
"""The first inference allocates and packs; CPython rewrites its bytecode during the first eight calls."""


def count(model: str, engine: str, runs: str) -> None:
    """Mark single inferences: what the plugin counts between two marks is one of them."""
    session = engine_menu.engine(engine).load(model, 1)
    x = _input(session.input.shape, session.input.dtype)
    for _ in range(WARMUP):
        session.run(x)
    batch = session.input.shape[0] if session.input.shape else 1
    print(json.dumps({"version": engine_menu.engine(engine).version(), "provider": session.provider, "batch": batch}))
    gc.collect()
    gc.disable()
    _mark()
    for _ in range(int(runs)):
        session.run(x)
        _mark()


def outputs(model: str, engine: str, source: str, target: str) -> None:
    """Run one inference per row, each a batch of one."""
    session = engine_menu.engine(engine).load(model, 1)
    np.save(target, np.concatenate([session.run(row[None]) for row in np.load(source)]))


def _input(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """A fixed input, not a random one: NumPy seeds its generator from the system, and counts would not repeat."""
    values = np.resize(np.arange(251), shape)
    return (values / 251 if np.dtype(dtype).kind == "f" else values % 127).astype(dtype)


def _mark() -> None:
    with contextlib.suppress(OSError):
        os.close(MARK)


if __name__ == "__main__":
    try:
        if sys.argv[1] == "count":
            count(*sys.argv[2:])
        else:
            outputs(*sys.argv[2:])
    except RuntimeFault as fault:
        sys.exit(str(fault))
