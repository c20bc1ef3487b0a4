"""An ARM core emulated on this machine: the real aarch64 engines on a Cortex-A72 or A76, without a board.

They compute what they compute on that core. How long that takes here means nothing, but how many instructions they
execute does; a plugin counts them.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median_low
from typing import TYPE_CHECKING, Any

from edgekit.errors import InputError, Shortfall
from edgekit.measurements import Kind
from edgekit.reach import sysroot, worker
from edgekit.reach.port import Target

if TYPE_CHECKING:
    import numpy.typing as npt

_PACKAGE = Path(__file__).parents[2]
_GUEST = _PACKAGE / "reach" / "guest.py"
_LINKER = {"x86_64": "ld-linux-x86-64.so.2", "aarch64": "ld-linux-aarch64.so.1"}
TIMEOUT = 900.0
"""Seconds for one job in the emulator, which is about a hundred times slower than the machine it runs on."""
SETTLE, RUNS = 3, 3
"""Inferences that are counted but not used (the allocator settles after the first mark), and those that are used."""
_MODEL, _COUNTS = "counted-model", "counts"
KIND: Kind = "estimated"
"""Kind of the times in a profile: from counts, never from a clock."""


@dataclass(frozen=True)
class Counts:
    """What one inference executes on one thread: the median over several."""

    instructions: int
    loaded: int
    """Bytes that the instructions load, whichever cache serves them; so is `stored`."""
    stored: int
    spread: float
    """Largest difference in instructions between these inferences, relative to the median."""
    version: str
    """Version of the engine."""
    provider: str
    """Provider, as the engine reports it."""
    batch: int


def start(argv: Sequence[str], device: Target) -> subprocess.Popen[str]:
    """Start Python on the emulated core; see `edgekit.reach.port.Reach.start`.

    Raises:
        InputError: the device file names no core.
        Shortfall: ``edgekit devices setup`` has not been run.
    """
    return _start(argv, device)


def send(file: Path, device: Target) -> str:
    """Return the absolute path: the emulated core reads this machine's files."""
    return str(file.resolve())


def clean(device: Target) -> None:
    """Do nothing: no files were sent."""


def explain(status: int, said: Sequence[str], device: Target) -> str:
    """Why a process ended, from its exit status or signal and its last lines."""
    return worker.ended(status, said)


def count(model: Path, engine: str, device: Target) -> Counts:
    """Count what one inference executes and moves, on one thread, after some warm-up.

    Between two marks lies one call of the engine's session, with the few thousand instructions that Python spends on
    it. Addresses, seeds, environment, clock and the paths that the guest sees are fixed, so that the same file gives
    the same counts in every process, wherever it is stored; one inference may differ from the next by some hundred
    instructions, as it leaves the heap changed.

    Args:
        model: an exported file.
        engine: a name of ``edgekit/runtime/engines``.
        device: reached by qemu.

    Raises:
        InputError: as `start`.
        Shortfall: the engine failed, or the emulator did.
    """
    runs = SETTLE + RUNS
    _core(device)  # fails with what to run if it is not set up
    with tempfile.TemporaryDirectory() as folder:
        view = Path(folder)
        (view / _MODEL).symlink_to(model.resolve())
        _compile(engine, device, view)
        script = f"/edgekit/edgekit/{_GUEST.relative_to(_PACKAGE)}"
        # -B: what is not compiled yet must not be compiled for the next count either.
        argv = ["-B", script, "count", f"/{_MODEL}", engine, str(runs)]
        try:
            said = _finish(_start(argv, device, engine, view), device)
        except Shortfall as error:
            raise Shortfall(str(error).replace(f"/{_MODEL}", str(model))) from None
        marks = [tuple(map(int, line.split())) for line in (view / _COUNTS).read_text().splitlines()]
    if len(marks) != runs + 1:
        raise Shortfall(f"{device.name}: the counter left {len(marks)} of {runs + 1} marks")
    each = [[b - a for a, b in zip(*pair, strict=True)] for pair in pairwise(marks)][SETTLE:]
    instructions, loaded, stored = (median_low(column) for column in zip(*each, strict=True))
    seen = [row[0] for row in each]
    return Counts(instructions, loaded, stored, (max(seen) - min(seen)) / instructions, **json.loads(said))


def outputs(model: Path, engine: str, device: Target, inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """What a file computes on the emulated core, for comparison with this machine.

    Args:
        model: an exported file.
        engine: a name of ``edgekit/runtime/engines``.
        device: reached by qemu.
        inputs: (n, ...) of the file's input dtype; each row is run as a batch of one.

    Returns:
        Outputs (n, ...), of the file's output dtype.

    Raises:
        InputError: as `start`.
        Shortfall: the engine failed, or the emulator did.
    """
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.npy", Path(folder) / "out.npy"
        np.save(source, inputs)
        argv = [str(_GUEST), "outputs", str(model.resolve()), engine, str(source), str(target)]
        _finish(_start(argv, device, engine), device)
        result: npt.NDArray[Any] = np.load(target)
    return result


def _finish(process: subprocess.Popen[str], device: Target) -> str:
    """Wait for the process, and return what it printed."""
    try:
        printed, said = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise Shortfall(f"{device.name}: the emulator has not finished within {TIMEOUT:.0f} s") from None
    if process.returncode:
        lines = [line for line in said.splitlines() if line.strip()] or [f"exit status {process.returncode}"]
        raise Shortfall(f"{device.name}: {lines[-1]}")
    return printed


def _core(device: Target) -> Path:
    """The folder with the files of the device's core."""
    cpu = device.reach.cpu
    if cpu is None:
        raise InputError(f'{device.name}: reach.by = "qemu" needs reach.cpu (choices: {", ".join(sysroot.CORES)})')
    lacking = sysroot.missing(cpu)
    if lacking:
        raise Shortfall(f"{device.name}: {lacking}; run: edgekit devices setup {device.name}")
    return sysroot.folder() / "cores" / cpu


def _start(
    argv: Sequence[str], device: Target, engine: str | None = None, view: Path | None = None
) -> subprocess.Popen[str]:
    """Start the emulator; with a `view` (a temporary folder) paths are the same on every machine, and it counts."""
    root, core = sysroot.folder(), _core(device)
    # Use the emulator's own C library and loader: this machine's may be older.
    host = root / "host"
    loader = next(file for name in _LINKER.values() for file in (*host.glob(f"lib*/{name}"),))
    libraries = sorted({str(file.parent) for file in host.rglob("lib*.so.*")})
    command = [str(loader), "--library-path", os.pathsep.join(libraries)]
    emulator = [str(host / "usr/bin/qemu-aarch64"), "-cpu", core.name, "-seed", "1"]
    wheels = "tflite" if (engine or device.run.engines[0]) == "tflite_runtime" else "wheels"
    if view is None:
        command += [*emulator, "-L", str(core), str(core / "usr/bin/python3.11")]
        places = [core / "usr", _runtime(root), root / wheels, root / "pycache"]
    else:
        _furnish(view, root, core)
        counter = str(root / "counter" / "counter.so")
        command += ["--preload", counter, *emulator, "-plugin", f"{counter},out={view / _COUNTS}"]
        command += ["-L", str(view), "-0", "/usr/bin/python3.11", "usr/bin/python3.11"]
        places = [Path("/usr"), Path("/edgekit"), Path("/", wheels), Path("pycache")]
    return subprocess.Popen(
        [*command, *argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=view,
        env=_environment(*map(str, places)),
        encoding="utf-8",
        errors="replace",
    )


def _furnish(view: Path, root: Path, core: Path) -> None:
    """Link what the guest needs into a folder that the emulator treats as ``/``."""
    runtime = _runtime(root)
    cache = root / "pycache" / runtime.name
    cache.mkdir(parents=True, exist_ok=True)
    places = {each.name: each for each in core.iterdir()}
    places |= {"edgekit": runtime, "wheels": root / "wheels", "tflite": root / "tflite", "pycache": cache}
    for name, target in places.items():
        if not (view / name).is_symlink():  # left by an earlier start
            (view / name).symlink_to(target)


def _environment(home: str, runtime: str, wheels: str, cache: str) -> dict[str, str]:
    """A fixed environment: it must not vary between machines, and its size moves the stack."""
    return {
        "PYTHONHOME": home,
        "PYTHONPATH": os.pathsep.join([runtime, wheels]),
        "PYTHONPYCACHEPREFIX": cache,  # so that hashed parts do not change
        "PYTHONHASHSEED": "0",
        "PYTHONSAFEPATH": "1",
        "PYTHONNOUSERSITE": "1",
        "LANG": "C.UTF-8",
        "PATH": "/usr/bin:/bin",
        "ORT_DISABLE_TELEMETRY": "1",  # its threads are driven by the clock
        "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",  # the key of that cache is random
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _compile(engine: str, device: Target, view: Path) -> None:
    """Let Python write its bytecode files first: compiling leaves a different heap, and so different counts."""
    root = sysroot.folder()
    sources = sorted((_PACKAGE / "runtime").rglob("*.py"))
    state = [f"{file} {file.stat().st_mtime_ns}" for file in (root / sysroot.RECORD, *sources)]
    done = root / "pycache" / f"{engine}-{hashlib.sha256(chr(10).join(state).encode()).hexdigest()[:12]}"
    if not done.exists():
        imports = "import contextlib, gc, json; from edgekit.runtime import engine_menu"
        load = f"{imports}; engine_menu.engine({engine!r}).version()"
        _finish(_start(["-c", load], device, engine, view), device)
        done.touch()


def _runtime(root: Path) -> Path:
    """A folder with only edgekit in it: next to an installed edgekit are this machine's own wheels."""
    folder = root / "edgekit" / hashlib.sha256(str(_PACKAGE).encode()).hexdigest()[:12]
    link = folder / "edgekit"
    if not link.is_symlink():
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"edgekit.{os.getpid()}"
        partial.symlink_to(_PACKAGE)
        partial.rename(link)
    return folder
