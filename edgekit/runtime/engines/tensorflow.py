"""The interpreter inside an installed TensorFlow, pip package tensorflow: .tflite files on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from edgekit.runtime import tflite
from edgekit.runtime.errors import RuntimeFault

if TYPE_CHECKING:
    from edgekit.runtime.port import Bound, Session

FORMAT = "tflite"
PACKAGE = MODULE = "tensorflow"
WORDS = {"cpu": "cpu"}
BOUND: Bound | None = None


def version() -> str:
    """Version of the installed TensorFlow; RuntimeFault with the pip command when there is none."""
    _package()
    import tensorflow  # type: ignore[import-not-found,import-untyped,unused-ignore]

    return str(tensorflow.__version__)


def providers() -> tuple[str, ...]:
    """XNNPACK, and the interpreter's own kernels."""
    _package()
    return tflite.PROVIDERS


def load(model: str | bytes, threads: int = 1, provider: str | None = None, name: str | None = None) -> Session:
    """Open a .tflite file; see `edgekit.runtime.port.Engine`."""
    return tflite.open_session(_package(), model, threads, provider, name)


def _package() -> Any:
    try:
        from tensorflow import lite  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError as error:
        raise RuntimeFault(f"tensorflow cannot be imported ({error}): pip install {PACKAGE}") from error
    if hasattr(lite, "experimental") and hasattr(lite.experimental, "OpResolverType"):
        return _Lite(lite.Interpreter, lite.experimental.OpResolverType)
    raise RuntimeFault(f"tensorflow has no TFLite interpreter that edgekit can drive: pip install -U {PACKAGE}")


class _Lite(NamedTuple):
    """The two names that the other TFLite packages have in one module."""

    Interpreter: Any
    OpResolverType: Any
