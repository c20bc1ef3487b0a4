"""What every engine offers: an engine is a module, a session any object of this shape; and the grid of a port."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Port(NamedTuple):
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
    """A loaded model with one input and one output. Several threads may run it."""

    input: Port
    output: Port
    provider: str
    """Execution provider or delegate in use, read back from the engine."""
    placement: dict[str, dict[str, int]]
    """Operators by provider and type, as they ran in the first inference on anything but the CPU; empty before, where
    only the CPU was asked for, and where the engine does not tell."""

    def run(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """One inference; returns when the output is in the host's memory, whatever computes it.

        Args:
            x: contiguous array of the input's shape and dtype.

        Returns:
            The output, in memory of its own: a later run does not change it.

        Raises:
            RuntimeFault: wrong shape or dtype, the engine failed, the session is closed; or it was the first one, and
                another provider than the one asked for ran a part of it.
        """

    def close(self) -> None:
        """Free the model; the session cannot run any more."""


class Engine(Protocol):
    """A module of ``edgekit/runtime/engines``."""

    FORMAT: str
    """Format of the files it runs: onnx, tflite or executorch."""
    PACKAGE: str
    """Its name for pip."""
    MODULE: str
    """Its name for import."""
    WORDS: dict[str, str]
    """What a device file may give `load` as `provider`, and what `providers` calls that (often the same)."""

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

    def load(
        self, model: str | bytes, threads: int = 1, provider: str | None = None, name: str | None = None
    ) -> Session:
        """Open a model.

        Args:
            model: path of its file, or the file's bytes.
            threads: of one inference.
            provider: one of `providers`, or an engine's shorter word for it; None is the engine's choice for the CPU.
                With the suffix "+cpu" the CPU may run what the provider does not take.
            name: its name in error messages; None is the path.

        Raises:
            RuntimeFault: engine not installed, file not usable, or another provider than the one asked for would run.
        """


def quantize(values: npt.NDArray[Any], port: Port) -> npt.NDArray[Any]:
    """Real values on a port's integer grid: halves round to even, values beyond the range saturate.

    Args:
        values: float32, any shape.
        port: if it takes floats, values are only converted to its dtype.
    """
    import numpy as np

    if port.scale is None or port.zero_point is None:
        return values.astype(port.dtype, copy=False)
    limits = np.iinfo(port.dtype)
    steps = np.rint(values * np.float32(1 / port.scale)) + port.zero_point
    kept: npt.NDArray[Any] = np.clip(steps, limits.min, limits.max).astype(port.dtype)
    return kept


def dequantize(values: npt.NDArray[Any], port: Port) -> npt.NDArray[np.float32]:
    """What a port's integers stand for, as float32 (floats stay as they are)."""
    import numpy as np

    if port.scale is None or port.zero_point is None:
        return values.astype(np.float32, copy=False)
    real: npt.NDArray[np.float32] = (values.astype(np.float32) - np.float32(port.zero_point)) * np.float32(port.scale)
    return real
