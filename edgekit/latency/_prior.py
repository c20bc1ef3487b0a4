"""What a layer's time is made of before any network was measured, from one operator profile or from usual costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgekit.latency.shapes import KINDS, VECTOR, LayerShape
from edgekit.measurements import OperatorProfile

Array = npt.NDArray[np.float64]
TERMS = ("call", "pixels", "input", "output", "tiles", "weights", "after")
"""What the time of a layer grows with: nothing (starting the operator), positions of the output, elements of the
input, elements of the output, multiply-adds in whole tiles, weights in whole tiles, and elements of the output again,
for the operators that follow and are no weighted layer (additions, pools, conversions)."""
_USUAL = {
    "dense": (120e3, 400.0, 8.0, 24.0, 1.0, 4.0, 8.0),
    "pointwise": (120e3, 400.0, 8.0, 24.0, 1.0, 4.0, 8.0),
    "depthwise": (120e3, 400.0, 8.0, 24.0, 4.0, 4.0, 8.0),
    "linear": (120e3, 400.0, 8.0, 24.0, 1.0, 4.0, 8.0),
}
"""Usual cost of each term of int8 kernels, in multiply-adds of a 1x1 convolution."""
_LOOSE = 1.0
"""How far the usual costs may be off, relative."""
_EVEN = 0.25
"""How far the time of one layer is from what others of its kind would suggest, relative."""
_KNOWN = 0.5
"""Least share of a profile's time in operators named after the layers for it to be of use."""
FEW, FEW_DEPTHWISE = 16, 32
"""Layers of fewer channels may be slow with those that fill no vector, as ONNX Runtime 1.31 on x86-64 is: a depthwise
convolution of 24 channels takes longer than one of 32, but one of 40 does not, and a 1x1 convolution to 8 channels
longer than one to 16, but one to 24 does not."""


@dataclass(frozen=True)
class Prior:
    """Shares of the whole net's time."""

    source: Literal["operators", "usual costs"]
    before: float
    """Of the operators before the first layer, which only depend on the image."""
    shares: tuple[tuple[float, ...], ...]
    """By layer and term of `TERMS`; with `before` they add up to 1."""


@dataclass(frozen=True)
class Tile:
    """Channels that an engine's kernels handle at once: those beyond a multiple cost as much as a whole one."""

    inputs: int
    outputs: int
    depthwise: int
    stray: int = 1
    """How many times as long writing a channel takes that fills no vector (`VECTOR`), in layers of `FEW` channels."""


class Fixed:
    """What stays the same of the layers when they get narrower, so that their terms are computed fast."""

    def __init__(self, whole: Sequence[LayerShape]) -> None:
        self._kernel = np.array([shape.kernel for shape in whole], float)
        self._deep = np.array([shape.kind == "depthwise" for shape in whole])
        self._groups = np.where(self._deep, 1, [shape.groups for shape in whole])
        self._few = np.where(self._deep, FEW_DEPTHWISE, FEW)

    def terms(self, shapes: Sequence[LayerShape], tile: Tile) -> Array:
        """[layers, terms], float64."""
        sizes = np.array([(s.inputs, s.outputs, s.in_pixels, s.pixels) for s in shapes], float)
        inputs, outputs, before, after = sizes.T
        reads = _up(inputs / self._groups, tile.inputs) * _up(outputs / self._groups, tile.outputs) * self._groups
        weights = self._kernel * np.where(self._deep, _up(outputs, tile.depthwise), reads)
        strays = np.where(outputs < self._few, outputs % VECTOR, 0)
        written = (outputs + (tile.stray - 1) * strays) * after
        columns = np.ones(len(sizes)), after, inputs * before, written, weights * after, weights, outputs * after
        return np.stack(columns, 1)


def _up(channels: Array, tile: int) -> Array:
    return np.ceil(channels / tile) * tile


def prior(whole: Sequence[LayerShape], tile: Tile, operators: OperatorProfile | None) -> Prior:
    """How the whole net's time is made up.

    A profile's times of single operators are uncertain; those of a layer that are within the noise of what the other
    layers of its kind suggest are replaced with that.

    Args:
        whole: the layers.
        tile: of the kernels.
        operators: one profile of the whole net; None, or one whose operators are not named after the layers, assumes
            usual costs.
    """
    terms = Fixed(whole).terms(whole, tile)
    costs = terms * np.array([_USUAL[shape.kind] for shape in whole])
    times = _times(whole, operators) if operators else None
    if times is None:
        shares = costs / costs.sum()
        return Prior("usual costs", 0.0, _rows(shares))
    before, own, after = times
    costs *= own.sum() / costs[:, :-1].sum()
    for kind in KINDS:
        of = np.array([shape.kind == kind for shape in whole])
        if of.any():
            costs[of, :-1] *= _factors(costs[of, :-1], own[of])
    expected = costs[:, :-1].sum(1)
    noise = np.median(np.abs(own - expected)) / 0.6745
    trust = np.square(_EVEN * expected) / (np.square(_EVEN * expected) + noise * noise)
    settled = trust * own + (1 - trust) * expected
    costs[:, :-1] *= (settled / expected)[:, None]
    costs[:, -1] = after
    total = before + costs.sum()
    return Prior("operators", float(before / total), _rows(costs / total))


def _factors(costs: Array, own: Array) -> Array:
    """What to multiply the columns with so that the rows' sums are near what was measured: ridge regression."""
    weights = 1 / (0.2 * own + 0.2 * own.mean() + 1e-12)
    rows = np.vstack([costs * weights[:, None], np.eye(costs.shape[1]) / _LOOSE])
    target = np.concatenate([own * weights, np.ones(costs.shape[1]) / _LOOSE])
    factors: Array = np.clip(np.linalg.lstsq(rows, target, rcond=None)[0], 0.1, None)
    return factors


def _times(whole: Sequence[LayerShape], operators: OperatorProfile) -> tuple[float, Array, Array] | None:
    """Milliseconds before the first layer, of each layer, and of the operators that follow it; None if of no use."""
    places = {shape.name: place for place, shape in enumerate(whole)}
    own, after = np.zeros(len(whole)), np.zeros(len(whole))
    before, last = 0.0, None
    for row in operators.rows:
        place = places.get(row.layer)
        if place is not None:
            own[place] += row.ms
            last = place
        elif last is not None:
            after[last] += row.ms
        else:
            before += row.ms
    total = before + own.sum() + after.sum()
    return (before, own, after) if total and own.sum() >= _KNOWN * total else None


def _rows(shares: Array) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(map(float, row)) for row in shares)
