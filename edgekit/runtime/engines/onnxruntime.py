"""ONNX Runtime, pip package onnxruntime: .onnx files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.runtime._errors import RuntimeFault, first_line
from edgekit.runtime._port import Port

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgekit.runtime._port import Session

FORMAT = "onnx"
PACKAGE = MODULE = "onnxruntime"

_CPU = "CPUExecutionProvider"
_DTYPES = {"float": "float32", "double": "float64"}  # the other names are NumPy's


class OrtSession:
    """A session on an onnxruntime.InferenceSession."""

    def __init__(self, session: Any, source: Port, sink: Port, provider: str) -> None:
        self.input, self.output, self.provider = source, sink, provider
        self._session = session
        self._outputs = [sink.name]

    def run(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """One inference; see `edgekit.runtime._port.Session`."""
        session = self._session
        if session is None:
            raise RuntimeFault("the model is closed")
        try:
            result: npt.NDArray[Any] = session.run(self._outputs, {self.input.name: x})[0]
        except Exception as error:  # its classes are private, and differ between releases
            raise RuntimeFault(f"inference failed: {first_line(error)}") from error
        return result

    def close(self) -> None:
        """Free the model."""
        self._session = None


def version() -> str:
    """Version of the installed ONNX Runtime; RuntimeFault with the pip command when there is none."""
    return str(_package().__version__)


def providers() -> tuple[str, ...]:
    """Execution providers of the installed build."""
    return tuple(_package().get_available_providers())


def load(model: str | bytes, threads: int = 1, provider: str | None = None, name: str | None = None) -> Session:
    """Open an .onnx file; see `edgekit.runtime._port.Engine`.

    All graph optimisations, `threads` intra-op threads, sequential execution; spinning as ONNX Runtime has it.
    """
    ort = _package()
    name = name or (model if isinstance(model, str) else "model")
    wanted = provider or _CPU
    if wanted not in ort.get_available_providers():
        allowed = ", ".join(ort.get_available_providers())
        raise RuntimeFault(f'"{wanted}": this build of onnxruntime has no such provider (choices: {allowed})')
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors come back as exceptions
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    try:
        session = ort.InferenceSession(model, options, providers=[wanted])
    except Exception as error:  # its classes are private, and differ between releases
        raise RuntimeFault(f"{name}: cannot be loaded: {first_line(error)}") from error
    if isinstance(model, bytes) and hasattr(session, "_model_bytes"):
        session._model_bytes = None  # kept for falling back to another provider, which is not wanted here
    applied = _applied(session, wanted)
    if applied != wanted:
        raise RuntimeFault(f"{name}: {wanted} was asked for, but {applied} would run")
    source = _only(session.get_inputs(), f"{name}: inputs")
    sink = _only(session.get_outputs(), f"{name}: outputs")
    return OrtSession(session, source, sink, applied)


def _applied(session: Any, wanted: str) -> str:
    """The provider that runs the model; `wanted` when it runs at least a part.

    ONNX Runtime falls back to the CPU with no more than a warning, and `get_providers` also names providers that took
    no operator. Which operators each one took is told since release 1.24.
    """
    applied: str = session.get_providers()[0]
    if applied == _CPU or not hasattr(session, "get_provider_graph_assignment_info"):
        return applied
    took = {part.ep_name for part in session.get_provider_graph_assignment_info()}
    return wanted if wanted in took else _CPU


def _only(nodes: list[Any], what: str) -> Port:
    if len(nodes) != 1:
        raise RuntimeFault(f"{what}: one is supported, the model has {len(nodes)}")
    node = nodes[0]
    dtype = node.type.replace("tensor(", "").rstrip(")")
    shape = tuple(size if isinstance(size, int) and size > 0 else 1 for size in node.shape)
    return Port(node.name, shape, _DTYPES.get(dtype, dtype))


def _package() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeFault(f"onnxruntime cannot be imported ({error}): pip install {PACKAGE}") from error
    return onnxruntime
