"""What calibration records of an activation tensor: its extremes and one histogram, however many images it sees.

Bins are ``w`` wide, ``w`` a power of two, and start at multiples of ``w``. When a value falls outside, bins merge in
pairs: counts stay exact integers, and the result does not depend on the order of the images.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchao.quantization.pt2e import ObserverBase

BINS = 8192
"""After a merge, at least half of them cover the range: 16 bins per int8 step."""
FINEST = -60
"""Exponent of the narrowest bin: fine enough to tell a tensor that is almost zero from one that is zero."""

FAR = 2**24
"""Largest bin index, either side of zero: beyond it, float32 cannot tell bins apart."""


@dataclass(frozen=True)
class Range:
    """The ends of a tensor's int8 grid, before it is adjusted to hold zero exactly."""

    low: float
    high: float
    rule: str
    """Module of ``edgekit/quantize/ranges`` that chose it."""


Cost = Callable[[float, float], float]
"""Error of the network's output if one tensor is put on the int8 grid over (low, high)."""


class Histogram(ObserverBase):  # type: ignore[misc]
    """torchao observer of one tensor (per tensor, int8). `decided` is set once calibration is over.

    Args:
        dtype: type of the quantized tensor.
        quant_min: smallest integer.
        quant_max: largest integer.
        qscheme: per-tensor, affine or symmetric.
    """

    counts: Tensor
    """int64 (BINS,): values by bin."""
    extremes: Tensor
    """float32 (2,): smallest and largest value seen; an empty interval before the first."""
    place: Tensor
    """int64 (2,): index of the first bin, and the exponent of the bin width."""

    def __init__(
        self,
        dtype: torch.dtype = torch.int8,
        quant_min: int = -128,
        quant_max: int = 127,
        qscheme: torch.qscheme = torch.per_tensor_affine,
        **_: Any,
    ) -> None:
        super().__init__(dtype=dtype)
        self.quant_min = quant_min
        self.quant_max = quant_max
        self.qscheme = qscheme
        self.decided: Range | None = None
        self.register_buffer("counts", torch.zeros(BINS, dtype=torch.int64))
        self.register_buffer("extremes", torch.tensor([torch.inf, -torch.inf]))
        self.register_buffer("place", torch.tensor([0, FINEST]))

    def forward(self, x: Tensor) -> Tensor:
        """Count the values of `x`, any shape; returns it unchanged.

        Raises:
            FloatingPointError: a value is NaN or infinite.
        """
        values = x.detach().float().flatten()
        if not len(values):
            return x
        low, high = torch.aminmax(values)
        if not math.isfinite(float(high - low)):
            raise FloatingPointError("NaN or infinite")
        self.extremes.copy_(torch.stack([torch.minimum(self.extremes[0], low), torch.maximum(self.extremes[1], high)]))
        self._cover(float(self.extremes[0]), float(self.extremes[1]))
        first, exponent = self.place.tolist()
        index = (values * 2.0**-exponent).floor_().to(torch.int64)  # exact: a power of two only moves the exponent
        self.counts += torch.bincount(index - first, minlength=BINS)
        return x

    def _cover(self, low: float, high: float) -> None:
        """Merge bins until the range fits."""
        first, exponent = self.place.tolist()
        wide = exponent
        while (
            math.floor(high * 2.0**-wide) - math.floor(low * 2.0**-wide) >= BINS
            or max(abs(low), abs(high)) * 2.0**-wide >= FAR
        ):
            wide += 1
        start = math.floor(low * 2.0**-wide)
        if (start, wide) == (first, exponent):
            return
        filled = self.counts.nonzero().flatten()
        merged = torch.zeros_like(self.counts)
        merged.index_add_(0, ((filled + first) >> (wide - exponent)) - start, self.counts[filled])
        self.counts.copy_(merged)
        self.place.copy_(torch.tensor([start, wide]))

    @property
    def low(self) -> float:
        """Smallest value seen, or 0."""
        return float(self.extremes[0]) if self.seen else 0.0

    @property
    def high(self) -> float:
        """Largest value seen, or 0."""
        return float(self.extremes[1]) if self.seen else 0.0

    @property
    def seen(self) -> bool:
        """Whether any value was seen."""
        return bool(self.extremes[0] <= self.extremes[1])

    @property
    def dead(self) -> bool:
        """Whether every value was zero."""
        return self.low == self.high == 0

    def filled(self) -> tuple[Tensor, Tensor]:
        """Centres and counts of the bins that hold values, both float64, ascending."""
        index = self.counts.nonzero().flatten()
        first, exponent = self.place.tolist()
        centres = ((index + first).double() + 0.5) * 2.0**exponent
        return centres.clamp(self.low, self.high), self.counts[index].double()

    @property
    def symmetric(self) -> bool:
        """Whether the grid has its zero point at 0."""
        return bool(self.qscheme == torch.per_tensor_symmetric)

    def mirrored(self) -> Histogram:
        """As if the negative of every value had been seen, too: what a rule for symmetric ranges looks at.

        The bin that starts at zero, which after a relu holds most values, stays as it is.
        """
        both = copy.deepcopy(self)
        if not self.seen:
            return both
        far = max(-self.low, self.high)
        both.extremes.copy_(torch.tensor([-far, far]))
        both._cover(-far, far)
        first = int(both.place[0])
        filled = both.counts.nonzero().flatten()
        filled = filled[filled != -first]
        opposite = (-1 - first - (filled + first)).clamp(0, BINS - 1)  # bin i holds [i, i + 1), so -1 - i is opposite
        both.counts.index_add_(0, opposite, both.counts[filled])
        return both

    def calculate_qparams(self, **_: Any) -> tuple[Tensor, Tensor]:
        """Scale and zero point (one element each) of the decided range, else of the extremes."""
        low, high = (self.decided.low, self.decided.high) if self.decided else (self.low, self.high)
        scale, zero = grid(low, high, self.quant_min, self.quant_max, self.symmetric)
        return torch.tensor([scale]), torch.tensor([zero], dtype=torch.int64)


def grid(
    low: float, high: float, quant_min: int = -128, quant_max: int = 127, symmetric: bool = False
) -> tuple[float, int]:
    """Scale and zero point of a grid over [low, high], widened until it holds zero exactly; `symmetric`: at 0.

    A range of zero width, as of a dead layer, gets the grid over [0, 1]: any scale represents zeros.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if high - low < torch.finfo(torch.float32).tiny * (quant_max - quant_min):
        low, high = 0.0, 1.0
    if symmetric:
        return max(-low, high) / quant_max, 0
    scale = (high - low) / (quant_max - quant_min)
    zero = quant_min - round(low / scale)
    return scale, min(max(zero, quant_min), quant_max)


def squared_error(values: Tensor, counts: Tensor, low: Tensor, high: Tensor, levels: int = 255) -> Tensor:
    """Sum of squared differences between values and their grid points.

    Args:
        values: (N,), float64.
        counts: (N,), how often each occurs.
        low: (M,) ends of the candidate ranges, at most 0.
        high: (M,) likewise, at least 0.
        levels: steps of the grid.

    Returns:
        (M,) errors.
    """
    scale = ((high - low) / levels).unsqueeze(1)
    bottom = torch.round(low.unsqueeze(1) / scale)
    steps = torch.maximum(torch.minimum(torch.round(values / scale), bottom + levels), bottom)
    return ((steps * scale - values).square() * counts).sum(1)
