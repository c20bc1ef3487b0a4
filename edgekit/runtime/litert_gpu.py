"""LiteRT's GPU accelerator: a compiled model instead of an interpreter."""

from __future__ import annotations

import re
import threading
from collections import Counter
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from edgekit.runtime import tflite
from edgekit.runtime.errors import RuntimeFault, first_line
from edgekit.runtime.placement import FALLBACK, overheard

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgekit.runtime.port import Port, Session

GPU, HALF = "gpu", "gpu-fp16"
PROVIDERS = (GPU, HALF)
"""The second one lets the GPU compute floats in half precision, where it can."""

OPERATORS = "operators"
"""Stands for a type in `placement` when only the number is known."""
_SHARES = re.compile(r"(\d+) operations will run on the GPU, and the remaining (\d+) operations will run on the CPU")
_ADAPTER = re.compile(r"Selected adapter: ([^,\n]+)")
_REFUSED = re.compile(r"Following operations are not supported[^\n]*\n(.*?)\n\d+ operations", re.DOTALL)


class CompiledSession:
    """A session on an ai_edge_litert CompiledModel. One thread runs it at a time.

    `run` returns when the output is in the host's memory, so its time includes all work of the GPU and the copies.
    """

    def __init__(
        self, model: Any, source: Port, sink: Port, provider: str, placement: dict[str, dict[str, int]]
    ) -> None:
        self.input, self.output, self.provider, self.placement = source, sink, provider, placement
        self._model = model
        self._lock = threading.Lock()
        self._in, self._out = model.create_input_buffers(0), model.create_output_buffers(0)

    def run(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """One inference; see `edgekit.runtime.port.Session`."""
        import numpy as np

        if x.shape != self.input.shape or x.dtype != self.input.dtype:  # LiteRT would take the bytes as they are
            raise RuntimeFault(
                f"inference failed: {self.input.dtype} {self.input.shape} is needed, not {x.dtype} {x.shape}"
            )
        with self._lock:
            if self._model is None:
                raise RuntimeFault("the model is closed")
            try:
                self._in[0].write(x)
                self._model.run_by_index(0, self._in, self._out)
                size, dtype = int(np.prod(self.output.shape)), np.dtype(self.output.dtype)
                result: npt.NDArray[Any] = self._out[0].read(size, dtype.type)
            except (ValueError, RuntimeError, MemoryError) as error:
                raise RuntimeFault(f"inference failed: {first_line(error)}") from error
        return result.reshape(self.output.shape)

    def close(self) -> None:
        """Free the model."""
        with self._lock, overheard():
            self._in, self._out, self._model = [], [], None


def providers() -> tuple[str, ...]:
    """`PROVIDERS`, where the installed package has compiled models."""
    return PROVIDERS if find_spec("ai_edge_litert.compiled_model") else ()


def open_session(
    package: Any, model: str | bytes, threads: int, word: str, fallback: bool, name: str | None
) -> Session:
    """Compile a file, or its bytes, for the GPU.

    If the GPU does not take every operator, LiteRT prints how many it took, not which; so does `placement`.

    Args:
        package: the interpreter's module, which reports the scales of input and output.
        model: path or bytes.
        threads: for the part that the CPU runs.
        word: one of `PROVIDERS`.
        fallback: whether the CPU may run what the GPU does not take, or everything if there is no GPU.
        name: the file's name in error messages.

    Raises:
        RuntimeFault: the file cannot be used, there is no GPU, or it does not take every operator.
    """
    name = name or (model if isinstance(model, str) else "model")
    if not providers():
        raise RuntimeFault(f'"{word}": this ai-edge-litert cannot use a GPU: pip install -U ai-edge-litert')
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator
    from ai_edge_litert.options import CpuOptions, GpuOptions, Options

    plain = tflite.interpreter(package, model, threads, tflite.BUILTIN, name)
    source = tflite.only_port(plain.get_input_details(), f"{name}: inputs")
    sink = tflite.only_port(plain.get_output_details(), f"{name}: outputs")
    kinds = Counter(node["op_name"] for node in plain._get_ops_details())
    del plain
    accelerators = HardwareAccelerator.GPU | (HardwareAccelerator.CPU if fallback else 0)
    with overheard() as said:
        try:
            options = Options(accelerators, CpuOptions(num_threads=threads), GpuOptions(enforce_f32=word == GPU))
            build = CompiledModel.from_file if isinstance(model, str) else CompiledModel.from_buffer
            made = build(model, options=options)
            whole = made.is_fully_accelerated()
        except (ValueError, RuntimeError, MemoryError) as error:
            if not fallback:
                raise RuntimeFault(f"{name}: {word} was asked for: {_reason(said(), error)}") from error
            return tflite.open_session(package, model, threads, None, name)
        adapter = _ADAPTER.search(said())  # SwiftShader and the like run in software, though the word says GPU
        used = f"{word} ({adapter.group(1)})" if adapter else word
        placement = {used: dict(kinds.most_common())}
        if not whole:
            shares = _SHARES.search(said())
            took, left = shares.groups() if shares else ("0", "0")
            placement = {used: {OPERATORS: int(took)}, "CPU": {OPERATORS: int(left)}}
            if not fallback:  # normally LiteRT has already refused
                raise RuntimeFault(f"{name}: {word} was asked for, but runs only {took} operators, the CPU {left}")
        return CompiledSession(made, source, sink, used, placement)


def _reason(said: str, error: Exception) -> str:
    """Why compiling failed, from what LiteRT printed; its exceptions only give line numbers of its source."""
    if refused := _REFUSED.search(said):
        return (
            f"it cannot run {'; '.join(refused.group(1).splitlines())} (accept that with allow_fallback = true, or "
            f'"{GPU}{FALLBACK}")'
        )
    if "No adapters found" in said:
        return "there is no GPU that Vulkan, Metal or Direct3D can use"
    return first_line(error)
