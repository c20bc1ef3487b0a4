"""What LiteRT and its predecessor tflite-runtime have in common: the same Interpreter class."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from edgekit.runtime.errors import RuntimeFault, first_line
from edgekit.runtime.port import Port
from edgekit.runtime.silence import silent_stderr

if TYPE_CHECKING:
    import numpy.typing as npt

XNNPACK, BUILTIN = "XNNPACK", "builtin"
PROVIDERS = (XNNPACK, BUILTIN)


class InterpreterSession:
    """A session on a TFLite interpreter whose tensors are allocated. One thread runs it at a time."""

    def __init__(self, interpreter: Any, source: Port, sink: Port, provider: str) -> None:
        self.input, self.output, self.provider = source, sink, provider
        self.placement: dict[str, dict[str, int]] = {}
        self._interpreter = interpreter
        self._lock = threading.Lock()
        self._in: int = interpreter.get_input_details()[0]["index"]
        self._out: int = interpreter.get_output_details()[0]["index"]

    def run(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """One inference; see `edgekit.runtime.port.Session`."""
        with self._lock:
            interpreter = self._interpreter
            if interpreter is None:
                raise RuntimeFault("the model is closed")
            try:
                interpreter.set_tensor(self._in, x)
                interpreter.invoke()
                result: npt.NDArray[Any] = interpreter.get_tensor(self._out)
            except (ValueError, RuntimeError, MemoryError) as error:
                raise RuntimeFault(f"inference failed: {first_line(error)}") from error
        return result

    def close(self) -> None:
        """Free the model."""
        with self._lock:
            self._interpreter = None


def open_session(
    package: Any, model: str | bytes, threads: int, provider: str | None, name: str | None
) -> InterpreterSession:
    """Load a file, or its bytes, with the interpreter of `package`.

    The provider is read from the execution plan: subgraphs that a delegate took over appear in it as
    nodes named DELEGATE, and XNNPACK is the only delegate that is applied without being loaded by name.

    Raises:
        RuntimeFault: the file cannot be used, or `provider` does not apply to it.
    """
    if provider not in (None, *PROVIDERS):
        raise RuntimeFault(f'"{provider}": no such provider of this engine (choices: {", ".join(PROVIDERS)})')
    name = name or (model if isinstance(model, str) else "model")
    made = interpreter(package, model, threads, provider, name)
    source = only_port(made.get_input_details(), f"{name}: inputs")
    sink = only_port(made.get_output_details(), f"{name}: outputs")
    delegated = any("DELEGATE" in node.upper() for node in _nodes(made))
    applied = XNNPACK if delegated else BUILTIN
    if provider not in (None, applied):
        raise RuntimeFault(f"{name}: {provider} was asked for, but takes none of this model's operators")
    return InterpreterSession(made, source, sink, applied)


def interpreter(package: Any, model: str | bytes, threads: int, provider: str | None, name: str) -> Any:
    """A package's Interpreter of a file, or of its bytes, tensors allocated; without delegates for `BUILTIN`.

    Raises:
        RuntimeFault: the file cannot be used.
    """
    kinds = package.OpResolverType
    resolver = kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES if provider == BUILTIN else kinds.AUTO
    try:
        with silent_stderr():  # "INFO: Created TensorFlow Lite XNNPACK delegate for CPU."
            source_file = {"model_path": model} if isinstance(model, str) else {"model_content": model}
            made = package.Interpreter(**source_file, num_threads=threads, experimental_op_resolver_type=resolver)
            made.allocate_tensors()
    except (ValueError, RuntimeError, MemoryError) as error:
        raise RuntimeFault(f"{name}: cannot be loaded: {first_line(error)}") from error
    return made


def _nodes(interpreter: Any) -> list[str]:
    """Names of the nodes in the execution plan."""
    native = interpreter._interpreter
    if hasattr(native, "NumNodes") and hasattr(native, "NodeName"):
        return [native.NodeName(index) for index in range(native.NumNodes())]
    return [node["op_name"] for node in interpreter._get_ops_details()]  # takes 2 ms for MobileNetV2


def only_port(details: list[dict[str, Any]], what: str) -> Port:
    """The one input or output of a model; RuntimeFault where there are several."""
    if len(details) != 1:
        raise RuntimeFault(f"{what}: one is supported, the model has {len(details)}")
    detail = details[0]
    scale, zero_point = detail["quantization"]
    return Port(
        name=detail["name"],
        shape=tuple(int(size) for size in detail["shape"]),
        dtype=detail["dtype"].__name__,
        scale=float(scale) or None,  # 0.0 says: not quantized
        zero_point=int(zero_point) if scale else None,
    )
