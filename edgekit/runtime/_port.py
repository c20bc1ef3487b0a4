"""What every engine offers. Structural types: an engine is a module, a session any object of this shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True)
class Port:
    """The input or the output of a loaded model."""

    name: str
    shape: tuple[int, ...]
    """A dimension the file leaves open (the batch) is given as 1."""
    dtype: str
    """NumPy's name: float32, int8, uint8, ..."""
    scale: float | None = None
    """Real value of one step, where the file states that this tensor is quantized."""
    zero_point: int | None = None


class Session(Protocol):
    """A loaded model with one input and one output."""

    input: Port
    output: Port
    provider: str
    """Execution provider or delegate in use, read back from the engine."""

    def run(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """One inference.

        Args:
            x: contiguous array of the input's shape and dtype.

        Returns:
            The output, in memory of its own: a later run does not change it.

        Raises:
            RuntimeFault: wrong shape or dtype, or the engine failed.
        """

    def close(self) -> None:
        """Free the model; the session cannot run any more."""


class Engine(Protocol):
    """A module of ``edgekit/runtime/engines``."""

    FORMAT: str
    """Files it runs: onnx or tflite."""
    PACKAGE: str
    """Its name for pip."""

    def version(self) -> str:
        """Version of the engine. Imports it.

        Raises:
            RuntimeFault: it is not installed; the message holds the pip command.
        """

    def providers(self) -> tuple[str, ...]:
        """Names that `load` takes as `provider` here. Imports the engine.

        Raises:
            RuntimeFault: it is not installed.
        """

    def load(self, path: str, threads: int = 1, provider: str | None = None) -> Session:
        """Open a model file.

        Args:
            path: the file.
            threads: of one inference.
            provider: one of `providers`; None is the engine's choice for the CPU.

        Raises:
            RuntimeFault: engine not installed, file not usable, or another provider than the one asked for would run.
        """
