"""LiteRT (formerly TensorFlow Lite), pip package ai-edge-litert: .tflite files on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.runtime._errors import RuntimeFault
from edgekit.runtime.engines import _tflite

if TYPE_CHECKING:
    from edgekit.runtime._port import Session

FORMAT = "tflite"
PACKAGE = "ai-edge-litert"
MODULE = "ai_edge_litert"


def version() -> str:
    """Version of the installed LiteRT; RuntimeFault with the pip command when there is none."""
    _package()
    import ai_edge_litert

    return str(ai_edge_litert.__version__)


def providers() -> tuple[str, ...]:
    """XNNPACK, and the interpreter's own kernels."""
    _package()
    return _tflite.PROVIDERS


def load(model: str | bytes, threads: int = 1, provider: str | None = None, name: str | None = None) -> Session:
    """Open a .tflite file; see `edgekit.runtime._port.Engine`."""
    return _tflite.open_session(_package(), model, threads, provider, name)


def _package() -> Any:
    try:
        from ai_edge_litert import interpreter
    except ImportError as error:
        raise RuntimeFault(f"litert cannot be imported ({error}): pip install {PACKAGE}") from error
    return interpreter
