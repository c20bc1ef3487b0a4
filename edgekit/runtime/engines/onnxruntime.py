"""ONNX Runtime, pip package onnxruntime or another build of it (onnxruntime-gpu, ...): .onnx files."""

from __future__ import annotations

import os
import platform
import re
import threading
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.runtime.errors import RuntimeFault, first_line
from edgekit.runtime.placement import FALLBACK, Placement, Watch, asked, in_words, overheard
from edgekit.runtime.port import Port

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgekit.runtime.port import Bound, Session

FORMAT = "onnx"
PACKAGE = MODULE = "onnxruntime"

_CPU = "CPUExecutionProvider"
_EXACT = "session.x64quantprecision"
_PRODUCT = (
    b'\x08\x08:\x81\x01\n/\n\x01s\x12\x01b"\x0fConstantOfShape*\x16\n\x05value*\n\x08\x01\x10\x03*\x01\x7fB\x01v\xa0\x01\x04'
    b'\n\x18\n\x01a\n\x01b\x12\x01y"\rMatMulInteger\x12\x01p*\x0b\x08\x02\x10\x07:\x02@ B\x01s'
    b"Z\x11\n\x01a\x12\x0c\n\n\x08\x02\x12\x06\n\x00\n\x02\x08@"
    b"b\x11\n\x01y\x12\x0c\n\n\x08\x06\x12\x06\n\x00\n\x02\x08 B\x04\n\x00\x10\x11"
)
"""A model of one MatMulInteger: uint8 [n, 64] times int8 [64, 32], which is 127 everywhere."""
WORDS = {
    "cpu": _CPU,
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "webgpu": "WebGpuExecutionProvider",
    "qnn": "QNNExecutionProvider",
}
"""Short words for providers; `load` also takes ONNX Runtime's own names."""
BOUND: Bound | None = None
_MEMORY = {WORDS["cuda"]: "cuda", WORDS["tensorrt"]: "cuda"}
"""Memory in which Python can place tensors itself; WebGPU, for one, has none."""
_CODE = re.compile(r"^/\S+\.cc:\d+ .*?( was false\. |\) )(?=[A-Z])")
"""Source location in front of ONNX Runtime's messages."""
_MISSING = re.compile(r"Failed to load library .* with error: (.*)")
_DTYPES = {"float": "float32", "double": "float64"}  # the other names are NumPy's


class OrtSession:
    """A session on an onnxruntime.InferenceSession.

    `run` returns when the output is in the host's memory, so its time includes all work of a GPU and the copies.
    """

    def __init__(self, session: Any, source: Port, sink: Port, provider: str, guard: _Guard | None = None) -> None:
        self.input, self.output, self.provider = source, sink, provider
        self.placement: Placement = {}
        self._session = session
        self._outputs = [sink.name]
        stated = session.get_inputs()[0].shape
        self.open_batch = bool(stated) and not isinstance(stated[0], int)
        self._guard = guard
        self._lock = threading.Lock()

    def run(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """One inference; see `edgekit.runtime.port.Session`."""
        if self._guard is None:
            return self._infer(x)
        with self._lock:  # the first inference shows what runs where
            result = self._infer(x)
            guard, self._guard = self._guard, None
            if guard is not None:
                try:
                    self.provider, self.placement = guard.check(self._session)
                except RuntimeFault:
                    self.close()
                    raise
        return result

    def _infer(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        session = self._session
        if session is None:
            raise RuntimeFault("the model is closed")
        try:
            result: npt.NDArray[Any] = session.run(self._outputs, {self.input.name: x})[0]
        except Exception as error:  # its classes are private, and differ between releases
            raise RuntimeFault(f"inference failed: {first_line(error)}") from error
        return result

    def steps(self, x: npt.NDArray[Any]) -> tuple[int, int, int] | None:
        """Nanoseconds of one inference: copying `x` in, computing, copying the output out; None if unknown.

        Tensors are bound to the device's memory, and each step waits for the device.
        """
        memory = _MEMORY.get(self.provider)
        if memory is None or self._session is None:
            return None
        try:
            binding = self._session.io_binding()
            start = perf_counter_ns()
            value = _package().OrtValue.ortvalue_from_numpy(x, memory, 0)
            binding.bind_ortvalue_input(self.input.name, value)
            binding.synchronize_inputs()
            there = perf_counter_ns()
            binding.bind_output(self.output.name, memory, 0)
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()
            done = perf_counter_ns()
            binding.copy_outputs_to_cpu()
            back = perf_counter_ns()
        except Exception as error:  # its classes are private, and differ between releases
            raise RuntimeFault(f"inference failed: {first_line(error)}") from error
        return there - start, done - there, back - done

    def close(self) -> None:
        """Free the model."""
        self._session = None


class _Guard:
    """Ensures that the provider asked for is the one that runs."""

    def __init__(self, watch: Watch, wanted: str, fallback: bool, name: str) -> None:
        self._watch, self._wanted, self._fallback, self._name = watch, wanted, fallback, name

    def check(self, session: Any) -> tuple[str, Placement]:
        """The provider that ran, and where each operator ran.

        Raises:
            RuntimeFault: some ran elsewhere, and that was not accepted.
        """
        placement, strays = self._watch.end(session, self._wanted)
        if strays and not self._fallback:
            every = sum(sum(kinds.values()) for kinds in placement.values())
            word = next((word for word, name in WORDS.items() if name == self._wanted), self._wanted)
            raise RuntimeFault(
                f"{self._name}: {self._wanted} was asked for, but {sum(strays.values())} of {every} operators ran "
                f'elsewhere ({in_words(strays)}); accept that with allow_fallback = true, or "{word}{FALLBACK}"'
            )
        return self._wanted if self._wanted in placement else _CPU, placement


def version() -> str:
    """Version of the installed ONNX Runtime; RuntimeFault with the pip command when there is none."""
    return str(_package().__version__)


def providers() -> tuple[str, ...]:
    """Execution providers of the installed build."""
    return tuple(_package().get_available_providers())


def load(model: str | bytes, threads: int = 1, provider: str | None = None, name: str | None = None) -> Session:
    """Open an .onnx file; see `edgekit.runtime.port.Engine`.

    All graph optimisations, `threads` intra-op threads, sequential execution; ONNX Runtime's default spinning.
    With a provider other than the CPU, the first inference is profiled to see what ran where: operators that the
    provider did not run are a fault of that inference, unless "+cpu" behind its name accepts them. For those that
    do not count see `edgekit.runtime.placement.strays`. Reading the profile adds to that inference's time.
    """
    ort = _package()
    name = name or (model if isinstance(model, str) else "model")
    word, fallback = asked(provider or _CPU)
    wanted = WORDS.get(word, word)
    if wanted not in ort.get_available_providers():
        names = {name: word for word, name in WORDS.items()}
        allowed = ", ".join(names.get(each, each) for each in ort.get_available_providers())
        raise RuntimeFault(f'"{word}": this build of onnxruntime has no such provider (choices: {allowed})')
    options = session_options(threads)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    guard = None if wanted == _CPU else _Guard(Watch(options), wanted, fallback, name)
    # ONNX Runtime's own fallback would only print the reason.
    more: dict[str, Any] = {} if wanted == _CPU or fallback else {"enable_fallback": 0}
    if wanted == WORDS["cuda"]:  # TF32 convolutions keep only 10 bits of mantissa
        more["provider_options"] = [{"use_tf32": "0"}]
    missing = ""
    try:
        if guard is None:
            session = cpu_session(model, threads, options)
        else:
            with overheard() as said, redirect_stdout(StringIO()):
                session = ort.InferenceSession(model, options, providers=[wanted], **more)
                missing = "".join(_MISSING.findall(said())[:1])
    except Exception as error:  # its classes are private, and differ between releases
        raise RuntimeFault(f"{name}: cannot be loaded: {_CODE.sub('', first_line(error))}") from error
    if guard is not None:
        session.disable_fallback()  # nor during an inference
    if isinstance(model, bytes) and hasattr(session, "_model_bytes"):
        session._model_bytes = None  # kept only for a fallback to another provider, which is disabled
    applied = _applied(session, wanted)
    if applied != wanted and not fallback:
        raise RuntimeFault(f"{name}: {wanted} was asked for, but {applied} would run" + (missing and f" ({missing})"))
    source = _only(session.get_inputs(), f"{name}: inputs")
    sink = _only(session.get_outputs(), f"{name}: outputs")
    return OrtSession(session, source, sink, applied, guard)


def session_options(threads: int) -> Any:
    """All graph optimisations, sequential execution, errors as exceptions."""
    options = _package().SessionOptions()
    options.graph_optimization_level = _package().GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors come back as exceptions
    return options


def cpu_session(model: str | bytes, threads: int = 1, options: Any = None) -> Any:
    """An InferenceSession on the CPU whose int8 kernels are exact even on x86 without VNNI.

    Where products saturate, ONNX Runtime is told to turn the weights into uint8, which is exact but slower. The
    conversion fails for weights that share a zero point, as in files of other tools: those run with ONNX Runtime's
    default, and verification or golden vectors show whether their results are right.
    """
    ort = _package()
    options = options or session_options(threads)
    if not saturates():
        return ort.InferenceSession(model, options, providers=[_CPU])
    options.add_session_config_entry(_EXACT, "1")
    try:
        return ort.InferenceSession(model, options, providers=[_CPU])
    except Exception as error:
        if "replace the existing tensor" not in str(error):
            raise
        with overheard():  # it warns that the value changes
            options.add_session_config_entry(_EXACT, "0")
        return ort.InferenceSession(model, options, providers=[_CPU])


@cache
def saturates() -> bool:
    """Whether ONNX Runtime adds products of uint8 and int8 in pairs that saturate in int16, as on x86 without VNNI.

    It is tried, for a single row and for several, which have kernels of their own: the features of the CPU do not tell,
    as each release looks for other ones. A build without these operators counts as one that saturates: the option is
    slower there, but never wrong.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    try:
        session = _package().InferenceSession(_PRODUCT, session_options(1), providers=[_CPU])
    except Exception:  # its classes are private
        return True
    products = (session.run(None, {"a": np.full((rows, 64), 255, np.uint8)})[0] for rows in (1, 8))
    return any(bool((product != 64 * 255 * 127).any()) for product in products)


def _applied(session: Any, wanted: str) -> str:
    """The provider that runs the model; `wanted` if it runs at least part of it.

    ONNX Runtime falls back to the CPU with only a warning, and `get_providers` also names providers that took
    no operator. Since release 1.24 it reports which operators each one took.
    """
    applied: str = session.get_providers()[0]
    if applied == _CPU or not hasattr(session, "get_provider_graph_assignment_info"):
        return applied
    took = {part.ep_name for part in session.get_provider_graph_assignment_info()}
    return wanted if wanted in took or _CPU not in took else _CPU


def _only(nodes: list[Any], what: str) -> Port:
    if len(nodes) != 1:
        raise RuntimeFault(f"{what}: one is supported, the model has {len(nodes)}")
    node = nodes[0]
    dtype = node.type.replace("tensor(", "").rstrip(")")
    shape = tuple(size if isinstance(size, int) and size > 0 else 1 for size in node.shape)
    return Port(node.name, shape, _DTYPES.get(dtype, dtype))


def _package() -> Any:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # its thread would run during measurements
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeFault(f"onnxruntime cannot be imported ({error}): pip install {PACKAGE}") from error
    return onnxruntime
