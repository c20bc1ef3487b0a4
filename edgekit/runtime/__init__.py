"""Run a bundle on a device: the standard library, NumPy and one engine (onnxruntime, ai-edge-litert, ...).

Example::

    import edgekit.runtime

    with edgekit.runtime.load("trash.edgekit") as model:
        print(model("photo.jpg"))
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.runtime._load import load
    from edgekit.runtime._model import Model, Result
    from edgekit.runtime.errors import RuntimeFault

__all__ = ["Model", "Result", "RuntimeFault", "load"]


def __getattr__(name: str) -> Any:
    # PEP 562: NumPy is imported with the first use, not with the package
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = {"RuntimeFault": "errors", "load": "_load"}.get(name, "_model")
    module = importlib.import_module(f"edgekit.runtime.{home}")
    globals()[name] = getattr(module, name)
    return globals()[name]


def __dir__() -> list[str]:
    return __all__
