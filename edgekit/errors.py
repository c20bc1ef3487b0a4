"""Everything edgekit raises on purpose.

::

    EdgekitError            a clear line for the user; never a traceback
    ├── InputError          the user's input: a recipe, a file, a flag          exit 2
    │   ├── MissingPackage  an extra is not installed                           exit 2
    │   └── Busy            another run holds the directory                     exit 2
    ├── Shortfall           a model or a device falls short of a requirement    exit 1
    │   └── Unreached       no device could be reached                          exit 1
    └── DiskFull            no room for the results                             exit 1

A message says where, what, what is allowed, and the next move.
"""

from __future__ import annotations

import importlib
from types import ModuleType


class EdgekitError(Exception):
    """Base of all errors that are shown as one line instead of a traceback."""

    exit_code = 1


class InputError(EdgekitError):
    """The user's input cannot be used: a recipe, a file, a flag."""

    exit_code = 2


class MissingPackage(InputError):
    """An optional package is not installed; the message gives the pip command."""


class Busy(InputError):
    """Another process is using the same run directory."""


class Shortfall(EdgekitError):
    """A model or a device falls short of a requirement: diverging outputs, NaN loss, no verdict."""


class Unreached(Shortfall):
    """Nothing was measured because no device could be reached; a retry may succeed."""


class Paused(Exception):
    """Not an error: training stopped after the epoch that it was told to stop after; the next run goes on from there.

    Args:
        score: validation top-1 of the best epoch so far, 0..1; None without a validation split.
        epochs: how many were trained.
        seconds: of the last of them.
    """

    def __init__(self, score: float | None, epochs: int, seconds: float) -> None:
        super().__init__(f"paused after epoch {epochs}")
        self.score, self.epochs, self.seconds = score, epochs, seconds


class DiskFull(EdgekitError):
    """No room for a result; what was finished before is kept."""


def need(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional package, or say which extra installs it.

    Args:
        module: dotted name of the module, e.g. ``"ai_edge_litert.interpreter"``.
        extra: the extra of edgekit that installs it.
        purpose: what needs it, as the start of a sentence ("exporting TFLite").

    Raises:
        MissingPackage: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise missing(error, extra=extra, purpose=purpose) from error


def missing(error: ModuleNotFoundError, *, extra: str, purpose: str) -> MissingPackage:
    """The error that `need` would raise, for an import that failed deeper inside."""
    package = (error.name or "a package").split(".")[0]
    return MissingPackage(f"{purpose} needs {package}, which is not installed: pip install 'edgekit[{extra}]'")
