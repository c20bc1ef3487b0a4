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


class Bound(NamedTuple):
    """How far the int8 outputs of an engine whose arithmetic is not exact may be from those of one whose is."""

    steps: int
    """Most steps of any output."""
    agreement: float
    """Least share of images with the same top-1 class, 0..1; one may always differ, however few there are."""

    def missed(self, engine: str, agreement: float, steps: float | None, images: int) -> str:
        """Why outputs are further away than that, in words; empty if they are not, `steps` being None if not known."""
        problems = []
        if steps is not None and not steps <= self.steps + 0.5:  # half a step of float noise
            problems.append(f"outputs up to {steps:.0f} steps away, the bound of {engine} is {self.steps}")
        if (1 - agreement) * images > max(1, (1 - self.agreement) * images) + 1e-6:
            problems.append(f"{agreement:.2%} top-1 agreement, the bound of {engine} is {self.agreement:.0%}")
        return "; ".join(problems)


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
    BOUND: Bound | None
    """None: its int8 outputs are exact, and held to what verification asks of every file. Else they are held to this,
    and a file that misses it is not shipped with this engine, which says nothing about other engines."""

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
