"""PyTorch on an NVIDIA GPU, pip package torch: programs of torch.export (.pt2), to compare other engines with.

Channels last, and on a GPU one CUDA graph, so that starting kernels costs next to nothing. float32 is true float32:
TF32 is switched off for the whole process.
"""

from __future__ import annotations

import copy
import logging
import threading
from importlib import metadata
from importlib.util import find_spec
from io import BytesIO
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from edgekit.runtime.errors import RuntimeFault, first_line
from edgekit.runtime.port import Port

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgekit.runtime.port import Bound, Session

FORMAT = "pt2"
PACKAGE = MODULE = "torch"
CUDA, HALF, CPU = "cuda", "cuda-fp16", "cpu"
WORDS = {word: word for word in (CUDA, HALF, CPU)}
"""What `load` takes as provider: the GPU, the GPU in half precision, and the same program without one."""
BOUND: Bound | None = None
_WARMUP = 3


class ProgramSession:
    """A session on a module whose tensors stay where they are. One thread runs it at a time."""

    def __init__(self, module: Any, source: Port, sink: Port, provider: str, static: tuple[Any, Any, Any]) -> None:
        self.input, self.output, self.provider = source, sink, provider
        self.placement: dict[str, dict[str, int]] = {}
        self._module = module
        self._x, self._y, self._graph = static
        self._lock = threading.Lock()

    def run(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """One inference; see `edgekit.runtime.port.Session`."""
        return self._run(x)[0]

    def steps(self, x: npt.NDArray[Any]) -> tuple[int, int, int]:
        """Nanoseconds of one inference: copying `x` in, computing, copying the output out, each waited for."""
        return self._run(x)[1]

    def close(self) -> None:
        """Free the model."""
        with self._lock:
            self._module = self._x = self._y = self._graph = None

    def _run(self, x: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], tuple[int, int, int]]:
        import torch

        if x.shape != self.input.shape or x.dtype != self.input.dtype:  # copy_ would broadcast and convert
            raise RuntimeFault(
                f"inference failed: {self.input.dtype} {self.input.shape} is needed, not {x.dtype} {x.shape}"
            )
        with self._lock:
            if self._module is None:
                raise RuntimeFault("the model is closed")
            try:
                with torch.inference_mode():
                    start = perf_counter_ns()
                    self._x.copy_(torch.from_numpy(x))
                    self._wait()
                    there = perf_counter_ns()
                    if self._graph is None:
                        self._y = self._module(self._x)
                    else:
                        self._graph.replay()
                    self._wait()
                    done = perf_counter_ns()
                    result: npt.NDArray[Any] = self._y.to("cpu", torch.float32, copy=True).numpy()
                    back = perf_counter_ns()
            except (RuntimeError, MemoryError) as error:
                raise RuntimeFault(f"inference failed: {first_line(error)}") from error
        return result, (there - start, done - there, back - done)

    def _wait(self) -> None:
        if self._x.is_cuda:
            import torch

            torch.cuda.synchronize()


def version() -> str:
    """Version of the installed PyTorch, which is not imported; RuntimeFault with the pip command when there is none."""
    _need()
    return metadata.version(PACKAGE)


def providers() -> tuple[str, ...]:
    """What `load` takes; PyTorch is not imported."""
    _need()
    return tuple(WORDS)


def load(model: str | bytes, threads: int = 1, provider: str | None = None, name: str | None = None) -> Session:
    """Open a .pt2 file with one float32 input and one output; see `edgekit.runtime.port.Engine`.

    A program runs on one device or not at all, so there is no fallback. `provider` None is the GPU. `threads` is set
    for the whole process.
    """
    torch = _package()
    name = name or (model if isinstance(model, str) else "model")
    word = provider or CUDA
    if word not in WORDS:
        raise RuntimeFault(f'"{word}": no such provider of this engine (choices: {", ".join(WORDS)})')
    if word != CPU and not torch.cuda.is_available():
        why = "this build of torch has no CUDA" if torch.version.cuda is None else "torch finds no NVIDIA GPU"
        raise RuntimeFault(f"{name}: {word} was asked for: {why}")
    torch.set_num_threads(threads)
    return open_program(model, "cpu" if word == CPU else "cuda", word == HALF, word, name)


def open_program(model: str | bytes, device: str, half: bool, provider: str, name: str) -> ProgramSession:
    """Move a program to a device and, if that is a GPU, record it as a CUDA graph.

    Raises:
        RuntimeFault: the file cannot be used.
    """
    torch = _package()
    from torch.export.passes import move_to_device_pass

    chatter = logging.getLogger("torch.export")
    quiet, chatter.disabled = chatter.disabled, True  # it also logs a stack trace of what it raises
    try:
        program = torch.export.load(BytesIO(model) if isinstance(model, bytes) else model)
    except Exception as error:  # zip, pickle, schema: each has its own
        raise RuntimeFault(f"{name}: cannot be loaded: {first_line(error)}") from error
    finally:
        chatter.disabled = quiet
    inputs = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    outputs = program.graph_signature.user_outputs
    if len(inputs) != 1 or len(outputs) != 1:
        raise RuntimeFault(f"{name}: one input and one output are supported, not {len(inputs)} and {len(outputs)}")
    like = inputs[0].meta["val"]
    if like.dtype != torch.float32:
        raise RuntimeFault(f"{name}: input: float32 is supported, not {str(like.dtype).rpartition('.')[2]}")
    shape = tuple(size if isinstance(size, int) else 1 for size in like.shape)
    dtype = torch.float16 if half else torch.float32
    try:
        program = move_to_device_pass(program, device)
        module = program.module().to(dtype=dtype)
        x = torch.zeros(shape, dtype=dtype, device=device)
        with torch.inference_mode():
            if len(shape) == 4 and _takes(module, x, torch.channels_last):
                module, x = (each.to(memory_format=torch.channels_last) for each in (module, x))
            y, graph = _recorded(module, x) if device == "cuda" else (module(x), None)
    except (RuntimeError, MemoryError, AssertionError) as error:
        raise RuntimeFault(f"{name}: cannot run on {device}: {first_line(error)}") from error
    sink = Port(outputs[0], tuple(y.shape), "float32")
    return ProgramSession(module, Port(inputs[0].name, shape, "float32"), sink, provider, (x, y, graph))


def _takes(module: Any, x: Any, layout: Any) -> bool:
    """Whether a program runs in a memory format: ``x.view(len(x), -1)`` does not in channels-last."""
    try:
        copy.deepcopy(module).to(memory_format=layout)(x.to(memory_format=layout))
    except RuntimeError:
        return False
    return True


def _recorded(module: Any, x: Any) -> tuple[Any, Any]:
    """The module's output for `x`, and the CUDA graph that recomputes it from what `x` then holds."""
    import torch

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = True  # shapes never change: take the fastest algorithm
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call,unused-ignore]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARMUP):
            module(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()  # type: ignore[no-untyped-call,unused-ignore]
    with torch.cuda.graph(graph):
        y = module(x)
    return y, graph


def _need() -> None:
    if find_spec(MODULE) is None:
        raise RuntimeFault(f"torch is not installed: pip install {PACKAGE}")


def _package() -> Any:
    try:
        import torch
    except ImportError as error:
        raise RuntimeFault(f"torch cannot be imported ({error}): pip install {PACKAGE}") from error
    return torch
