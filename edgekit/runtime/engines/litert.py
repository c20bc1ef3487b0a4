"""LiteRT (formerly TensorFlow Lite), pip package ai-edge-litert: .tflite files on the CPU, or on a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.runtime import litert_gpu, tflite
from edgekit.runtime.errors import RuntimeFault
from edgekit.runtime.placement import asked

if TYPE_CHECKING:
    from edgekit.runtime.port import Bound, Session

FORMAT = "tflite"
PACKAGE = "ai-edge-litert"
MODULE = "ai_edge_litert"
CPU = "cpu"
WORDS = {word: word for word in (CPU, *tflite.PROVIDERS, *litert_gpu.PROVIDERS)}
"""What `load` takes as provider; the first one leaves the choice to LiteRT."""
BOUND: Bound | None = None


def version() -> str:
    """Version of the installed LiteRT; RuntimeFault with the pip command when there is none."""
    _package()
    import ai_edge_litert

    return str(ai_edge_litert.__version__)


def providers() -> tuple[str, ...]:
    """XNNPACK and the interpreter's own kernels; a GPU, if the package has an accelerator for it."""
    _package()
    return (*tflite.PROVIDERS, *litert_gpu.providers())


def load(model: str | bytes, threads: int = 1, provider: str | None = None, name: str | None = None) -> Session:
    """Open a .tflite file; see `edgekit.runtime.port.Engine`."""
    package = _package()
    word, fallback = asked(provider or CPU)
    if word in litert_gpu.PROVIDERS:
        return litert_gpu.open_session(package, model, threads, word, fallback, name)
    if word not in WORDS:
        raise RuntimeFault(f'"{word}": no such provider of this engine (choices: {", ".join(WORDS)})')
    return tflite.open_session(package, model, threads, None if word == CPU else word, name)


def _package() -> Any:
    try:
        from ai_edge_litert import interpreter
    except ImportError as error:
        raise RuntimeFault(f"litert cannot be imported ({error}): pip install {PACKAGE}") from error
    return interpreter
