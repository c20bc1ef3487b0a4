"""OpenVINO, pip package openvino: .onnx files on the CPU, or on an Intel GPU or NPU.

Floats are float32 unless half precision is asked for: left alone, OpenVINO takes bfloat16 where the CPU has it, which
is slower for one image. Its int8 kernels are not exact: scales are folded and applied at other places than the file
says, so that results may be rounded to the next step. `BOUND` is what that may add up to.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING, Any

from edgekit.runtime.engines._openvino_graph import unrounded as unrounded
from edgekit.runtime.errors import RuntimeFault, first_line
from edgekit.runtime.placement import asked
from edgekit.runtime.port import Bound, Port

if TYPE_CHECKING:
    import numpy.typing as npt

FORMAT = "onnx"
PACKAGE = MODULE = "openvino"
WORDS = {
    "cpu": "CPU",
    "cpu-bf16": "CPU-bf16",
    "cpu-fp16": "CPU-fp16",
    "gpu": "GPU",
    "gpu-fp16": "GPU-fp16",
    "npu": "NPU",
}
"""Devices; with a second word, one may compute floats in half precision. An NPU always does."""
BOUND: Bound | None = Bound(steps=16, agreement=0.95)
"""MobileNetV2 on 400 images was up to 8 steps away, with 98.5 % of the classes; twice as far is no longer rounding, but
for instance the saturation of products on x86 without VNNI (docs/openvino.md)."""

_CPU, _NPU = "CPU", "NPU"
_PRECISIONS = {"": "f32", "bf16": "bf16", "fp16": "f16"}
"""OpenVINO's name for what stands behind the device in `WORDS`."""
_DTYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_TELEMETRY = "openvino_telemetry"
_PLACES = ("Exception from", "Check '", "FrontEnd API failed", "Model wasn't fully", "Summary:")
"""How those lines of OpenVINO's messages begin that say where in its source, but not what."""


class OpenVinoSession:
    """A session on a compiled model. One thread runs it at a time.

    `run` returns when the output is in the host's memory, so its time includes all work of a GPU and the copies.
    """

    def __init__(
        self, compile_for: Callable[[int], Any], source: Port, sink: Port, provider: str, open_batch: bool
    ) -> None:
        self.input, self.output, self.provider, self.open_batch = source, sink, provider, open_batch
        self.placement: dict[str, dict[str, int]] = {}
        self._own = source.shape[0] if source.shape else 1
        self._lock = threading.Lock()
        self._compile: Callable[[int], Any] | None = compile_for
        self._requests = {self._own: compile_for(self._own).create_infer_request()}
        if not provider.startswith(_CPU):
            self.placement = {provider: dict(Counter(row["layerType"] for row in self.kernels().values()))}

    def run(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """One inference; see `edgekit.runtime.port.Session`."""
        wanted, batch = self.input, x.shape[0] if x.ndim else 1
        fits = x.shape == wanted.shape or (self.open_batch and x.shape[1:] == wanted.shape[1:] and x.ndim and batch)
        if not fits or x.dtype != wanted.dtype:  # OpenVINO would convert the values
            raise RuntimeFault(f"inference failed: {wanted.dtype} {wanted.shape} is needed, not {x.dtype} {x.shape}")
        with self._lock:
            if self._compile is None:
                raise RuntimeFault("the model is closed")
            try:
                request = self._requests.get(batch)
                if request is None:
                    request = self._requests[batch] = self._compile(batch).create_infer_request()
                request.set_input_tensor(_package().Tensor(x if x.flags.writeable else x.copy(), shared_memory=True))
                request.infer()
                result: npt.NDArray[Any] = request.get_output_tensor().data.copy()
            except Exception as error:  # its classes are private
                raise RuntimeFault(f"inference failed: {_why(error)}") from error
        return result

    def kernels(self) -> dict[str, dict[str, str]]:
        """What the model was compiled into, in order: OpenVINO's facts about each kernel, by its name."""
        nodes = self._requests[self._own].get_compiled_model().get_runtime_model().get_ordered_ops()
        return {
            node.get_friendly_name(): {key: str(value.astype(str)) for key, value in node.get_rt_info().items()}
            for node in nodes
        }

    def spent(self) -> dict[str, tuple[str, float]]:
        """Type and milliseconds of each kernel that ran, by its name: means over all inferences, if counted."""
        rows = self._requests[self._own].get_profiling_info()
        ran = (row for row in rows if str(row.status).endswith("EXECUTED"))
        return {row.node_name: (row.node_type, row.real_time.total_seconds() * 1000) for row in ran}

    def close(self) -> None:
        """Free the model."""
        with self._lock:
            self._compile = None
            self._requests = {}


def version() -> str:
    """Version of the installed OpenVINO; RuntimeFault with the pip command when there is none."""
    return str(_package().__version__).partition("-")[0]


def providers() -> tuple[str, ...]:
    """The devices OpenVINO finds, and the half precisions in which they compute."""
    _package()
    core, found = _core(), []
    for device in dict.fromkeys(name.partition(".")[0] for name in core.available_devices):
        able = {able.lower() for able in core.get_property(device, "OPTIMIZATION_CAPABILITIES")}
        halves = [word for word in ("bf16", "fp16") if word in able]
        found += [name for name in (device, *(f"{device}-{half}" for half in halves)) if name in WORDS.values()]
    return tuple(found)


def load(model: str | bytes, threads: int = 1, provider: str | None = None, name: str | None = None) -> OpenVinoSession:
    """Open an .onnx file; see `edgekit.runtime.port.Engine`.

    Tuned for the latency of one image: one stream of `threads` threads, which the system may move between cores, as it
    may those of other engines. A model runs on one device or not at all: "+cpu" changes nothing.
    """
    return _open(model, threads, provider, name)


def counting(model: str | bytes, threads: int = 1, provider: str | None = None) -> OpenVinoSession:
    """As `load`, and every inference is counted: see `OpenVinoSession.spent`."""
    return _open(model, threads, provider, None, {"PERF_COUNT": True})


def _open(
    model: str | bytes, threads: int, provider: str | None, name: str | None, more: dict[str, Any] | None = None
) -> OpenVinoSession:
    _package()
    core = _core()
    name = name or (model if isinstance(model, str) else "model")
    used = _known(provider)
    device, _, half = used.partition("-")
    wanted = hints(_PRECISIONS[half], threads, device)
    try:
        graph = _read(model)
        unrounded(graph)
        source, sink = _only(graph.inputs, f"{name}: inputs"), _only(graph.outputs, f"{name}: outputs")
        stated = graph.inputs[0].partial_shape
        open_batch = len(source.shape) > 0 and stated[0].is_dynamic
        if stated.is_dynamic:
            graph.reshape(list(source.shape))
            sink = _only(graph.outputs, f"{name}: outputs")

        def compile_for(batch: int) -> Any:
            if source.shape and batch != graph.inputs[0].shape[0]:
                graph.reshape([batch, *source.shape[1:]])
            compiled = core.compile_model(graph, device, {**wanted, **(more or {})})
            _check(compiled, device, wanted, name)
            return compiled

        return OpenVinoSession(compile_for, source, sink, used, open_batch)
    except RuntimeFault:
        raise
    except Exception as error:  # its classes are private
        raise RuntimeFault(f"{name}: cannot be loaded: {_why(error)}") from error


def hints(precision: str, threads: int, device: str = _CPU) -> dict[str, Any]:
    """Properties for the latency of one image."""
    wanted: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if device != _NPU:
        wanted = {**wanted, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": precision}
    if device == _CPU:
        scheduling = {"ENABLE_CPU_PINNING": False, "ENABLE_HYPER_THREADING": True}
        wanted = {**wanted, "INFERENCE_NUM_THREADS": threads, **scheduling}
    return wanted


def _known(provider: str | None) -> str:
    """What `WORDS` calls a provider, if it is here; RuntimeFault if not."""
    word, _ = asked(provider or "cpu")
    used = WORDS.get(word, word)
    if used != _CPU or provider:
        here = providers()
        if used not in here:
            choices = ", ".join(word for word, name in WORDS.items() if name in here)
            device, _, half = used.partition("-")
            why = f"this {device} does not compute in {half}" if half and device in here else "OpenVINO finds none here"
            why = why if used in WORDS.values() else "no such provider of this engine"
            raise RuntimeFault(f'"{word}": {why} (choices: {choices})')
    return used


def _check(compiled: Any, device: str, wanted: dict[str, Any], name: str) -> None:
    """What was asked for is only a hint to OpenVINO: RuntimeFault if the compiled model differs."""
    runs_on = [each.strip("()").partition(".")[0] for each in compiled.get_property("EXECUTION_DEVICES")]
    facts = {"device": (device, ", ".join(runs_on))}
    if "INFERENCE_NUM_THREADS" in wanted:
        facts["threads"] = (str(wanted["INFERENCE_NUM_THREADS"]), str(compiled.get_property("INFERENCE_NUM_THREADS")))
    if "INFERENCE_PRECISION_HINT" in wanted:
        dtype = compiled.get_property("INFERENCE_PRECISION_HINT").to_dtype().name
        facts["precision"] = (wanted["INFERENCE_PRECISION_HINT"], _DTYPES.get(dtype, dtype))
    for what, (asked_for, used) in facts.items():
        if used != asked_for:
            raise RuntimeFault(f"{name}: {what} {asked_for} was asked for, but OpenVINO would use {used} here")


def _read(model: str | bytes) -> Any:
    """The graph, by the reader of .onnx files alone: asked for any, OpenVINO would try all its readers in turn."""
    _package()
    from openvino.frontend import FrontEndManager  # type: ignore[import-not-found,import-untyped,unused-ignore]

    reader = FrontEndManager().load_by_framework(FORMAT)
    return reader.convert(reader.load(model if isinstance(model, str) else BytesIO(model)))


def _only(nodes: list[Any], what: str) -> Port:
    if len(nodes) != 1:
        raise RuntimeFault(f"{what}: one is supported, the model has {len(nodes)}")
    (node,) = nodes
    shape = tuple(1 if size.is_dynamic else size.get_length() for size in node.partial_shape)
    return Port(node.any_name, shape, node.element_type.to_dtype().name)


def _why(error: BaseException) -> str:
    """What OpenVINO says besides the places in its source."""
    lines = [line.strip().removeprefix("-- ") for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(_PLACES)]
    return " ".join(said[0].split()) if said else first_line(error)


@lru_cache(maxsize=1)
def _core() -> Any:
    return _package().Core()


def _package() -> Any:
    try:
        with _silence():
            import openvino  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError as error:
        raise RuntimeFault(f"openvino cannot be imported ({error}): pip install {PACKAGE}") from error
    return openvino


@contextmanager
def _silence() -> Iterator[None]:
    """Without openvino-telemetry: importing OpenVINO would write ~/intel and report the import to Google Analytics.

    There is no other switch; OpenVINO imports a stub of its own where the package is missing.
    """
    if MODULE in sys.modules:
        yield
        return
    before = sys.modules.get(_TELEMETRY)
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[_TELEMETRY]
        if before is not None:
            sys.modules[_TELEMETRY] = before
