"""tflite-runtime, LiteRT's predecessor (last release 2.14, Python 3.8 to 3.11, numpy < 2): .tflite files on the CPU.

Its default resolver gives XNNPACK float models only; an int8 model runs on the built-in kernels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.runtime import tflite
from edgekit.runtime.errors import RuntimeFault

if TYPE_CHECKING:
    from edgekit.runtime.port import Bound, Session

FORMAT = "tflite"
PACKAGE = "tflite-runtime"
MODULE = "tflite_runtime"
WORDS = {"cpu": "cpu"}
BOUND: Bound | None = None


def version() -> str:
    """Version of the installed tflite-runtime; RuntimeFault with the pip command when there is none."""
    _package()
    import tflite_runtime

    return str(tflite_runtime.__version__)


def providers() -> tuple[str, ...]:
    """XNNPACK, and the interpreter's own kernels."""
    _package()
    return tflite.PROVIDERS


def load(model: str | bytes, threads: int = 1, provider: str | None = None, name: str | None = None) -> Session:
    """Open a .tflite file; see `edgekit.runtime.port.Engine`."""
    return tflite.open_session(_package(), model, threads, provider, name)


def _package() -> Any:
    try:
        from tflite_runtime import interpreter
    except ImportError as error:
        raise RuntimeFault(f"tflite_runtime cannot be imported ({error}): pip install {PACKAGE} 'numpy<2'") from error
    return interpreter
