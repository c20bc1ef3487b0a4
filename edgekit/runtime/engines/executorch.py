"""ExecuTorch, pip package executorch: .pte files on the CPU. Its Python module is linked to torch and needs it.

Its threads are one pool for the whole process, which cannot change while a model is open: XNNPACK holds on to it.
"""

from __future__ import annotations

import threading
import weakref
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.runtime import pte
from edgekit.runtime.errors import RuntimeFault, first_line
from edgekit.runtime.port import Port
from edgekit.runtime.silence import silent_stderr

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgekit.runtime.port import Bound

FORMAT = "executorch"
PACKAGE = "executorch"
BOUND: Bound | None = None
MODULE = "executorch.extension.pybindings._C"
"""`executorch` alone has no file: any folder of that name would pass for it. `executorch.runtime` imports the whole
exporter, which takes seconds."""
XNNPACK, PORTABLE = "XNNPACK", "portable"
PROVIDERS = (XNNPACK, PORTABLE)
WORDS = {word: word for word in ("cpu", *PROVIDERS)}
"""What `load` takes as provider; with the first one the file decides."""
_BACKEND = "XnnpackBackend"
_DTYPES = {0: "uint8", 1: "int8", 2: "int16", 3: "int32", 4: "int64", 5: "float16", 6: "float32", 7: "float64"}
"""ExecuTorch's scalar types."""
_POOL = threading.Lock()


class ExecutorchSession:
    """A session on the method "forward" of a program. One thread runs it at a time."""

    def __init__(self, program: Any, data: str | bytes, method: Any, ports: tuple[Port, Port], provider: str) -> None:
        import numpy
        import torch

        self.input, self.output = ports
        self.provider = provider
        self.placement: dict[str, dict[str, int]] = {}
        self._held = program, data  # the method reads from both
        self._method = method
        self._tensor = torch.from_numpy
        self._dtype = numpy.dtype(self.input.dtype)
        self._lock = threading.Lock()

    def run(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """One inference; see `edgekit.runtime.port.Session`."""
        if x.shape != self.input.shape or x.dtype != self._dtype:  # ExecuTorch would print the reason
            raise RuntimeFault(
                f"inference failed: the input is {x.dtype} {x.shape}, the model takes {self._dtype} {self.input.shape}"
            )
        if not x.flags.writeable:  # torch warns of these
            x = x.copy()
        with self._lock:
            if self._method is None:
                raise RuntimeFault("the model is closed")
            try:
                result: npt.NDArray[Any] = self._method.call((self._tensor(x),), True)[0].numpy()
            except (RuntimeError, ValueError, MemoryError) as error:
                raise RuntimeFault(f"inference failed: {first_line(error)}") from error
        return result

    def write_events(self, path: str) -> None:
        """Write what happened since loading as an ETDump, ExecuTorch's record of events, which empties it."""
        self._held[0].write_etdump_result_to_file(path, "")

    def close(self) -> None:
        """Free the model."""
        with self._lock:
            self._method = None
            self._held = None, b""
        _OPEN.discard(self)


_OPEN: weakref.WeakSet[ExecutorchSession] = weakref.WeakSet()


def version() -> str:
    """Version of the installed ExecuTorch, which is not imported; RuntimeFault with the pip command if none is."""
    _need()
    return metadata.version(PACKAGE)


def providers() -> tuple[str, ...]:
    """XNNPACK, and ExecuTorch's own portable kernels: the file says which. Nothing is imported: torch takes seconds."""
    _need()
    return PROVIDERS


def load(
    model: str | bytes, threads: int = 1, provider: str | None = None, name: str | None = None, events: bool = False
) -> ExecutorchSession:
    """Open a .pte file; see `edgekit.runtime.port.Engine`.

    Args:
        model: path or bytes.
        threads: of one inference; all open models of a process have the same.
        provider: one of `WORDS`.
        name: for messages.
        events: record the time of each operator, for `ExecutorchSession.write_events`.

    Raises:
        RuntimeFault: as `edgekit.runtime.port.Engine.load`; or another model is open with another number of threads.
    """
    package = _package()
    name = name or (model if isinstance(model, str) else "model")
    if provider not in (None, *WORDS):
        raise RuntimeFault(f'"{provider}": no such provider of this engine (choices: {", ".join(WORDS)})')
    try:
        found = pte.contents(Path(model).read_bytes() if isinstance(model, str) else model, name)
    except OSError as error:
        raise RuntimeFault(f"{name}: cannot be loaded: {error.strerror}") from error
    except RuntimeFault as fault:
        raise RuntimeFault(f"{name}: cannot be loaded: {str(fault).removeprefix(f'{name}: ')}") from None
    applied = _applied(found, package, name)
    if provider not in (None, "cpu", applied):
        raise RuntimeFault(f"{name}: {provider} was asked for, but the file was exported for {applied}")
    with _POOL:
        _set_threads(package, threads, name)
        try:
            with silent_stderr():
                check = package.Verification.InternalConsistency
                opened = package._load_program if isinstance(model, str) else package._load_program_from_buffer
                program = opened(model, events, 0, check)
                method = program.load_method("forward")
                meta = method.method_meta()
        except (RuntimeError, MemoryError) as error:
            raise RuntimeFault(
                f"{name}: cannot be loaded: {first_line(error)}; if another ExecuTorch than {version()} wrote it, "
                "export it again"
            ) from error
        ports = (
            _only_port("input", meta.num_inputs(), meta.input_tensor_meta, name),
            _only_port("output", meta.num_outputs(), meta.output_tensor_meta, name),
        )
        session = ExecutorchSession(program, model, method, ports, applied)
        _OPEN.add(session)
    return session


def _applied(found: pte.Contents, package: Any, name: str) -> str:
    """Where a program runs, which its exporter decided."""
    there = package._get_registered_backend_names()
    for backend in found.delegates:
        if backend not in there:
            raise RuntimeFault(
                f"{name}: exported for {backend}, which this build of ExecuTorch does not have "
                f"(it has {', '.join(there)}); export it for XNNPACK"
            )
        if backend != _BACKEND:
            raise RuntimeFault(f"{name}: exported for {backend}; this engine runs what is exported for XNNPACK")
    return XNNPACK if found.delegates else PORTABLE


def _set_threads(package: Any, threads: int, name: str) -> None:
    """Make the process's pool of threads one of `threads`, and read that back."""
    with silent_stderr():  # it reports how it counted the cores
        count = package._threadpool_get_thread_count()
        if count != threads and not _OPEN:
            package._unsafe_reset_threadpool(threads)
            count = package._threadpool_get_thread_count()
    if count != threads:
        why = "an open model uses it: close that first, or use another process" if _OPEN else f"ask for {count}"
        raise RuntimeFault(
            f"{name}: threads = {threads} was asked for, but ExecuTorch's one pool of this process has {count}; {why}"
        )


def _only_port(what: str, count: int, about: Any, name: str) -> Port:
    """The one input or output of a method; RuntimeFault where there are several."""
    if count != 1:
        raise RuntimeFault(f"{name}: {what}s: one is supported, the model has {count}")
    tensor = about(0)
    if tensor.dtype() not in _DTYPES:
        raise RuntimeFault(f"{name}: {what}: ExecuTorch's scalar type {tensor.dtype()} is not supported")
    return Port(what, tuple(tensor.sizes()), _DTYPES[tensor.dtype()])


def _need() -> None:
    """Raise RuntimeFault where the package is not installed; only folders are looked at."""
    try:
        found = find_spec(MODULE) is not None
    except ImportError:  # not even the package around it
        found = False
    if not found:
        raise RuntimeFault(f"executorch is not installed: pip install {PACKAGE}")


def _package() -> Any:
    _need()
    try:
        import torch  # noqa: F401 - loads the libraries that ExecuTorch's module is linked to
    except ImportError as error:
        raise RuntimeFault(
            f"executorch is linked to torch, which cannot be imported ({error}): pip install {PACKAGE} torch"
        ) from error
    try:
        with silent_stderr():
            return import_module(MODULE)
    except ImportError as error:
        raise RuntimeFault(f"executorch cannot be imported ({error}): pip install {PACKAGE}") from error
