"""What stays the same when an int8 file is cut to narrower layers: how shapes follow from narrower inputs, exactly.

Only numbers of channels change, so whatever an operator does to pixels, it did before. An operator's new result
therefore follows from its old one: from the axes along which its inputs became narrower.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

Shape = tuple[int, ...]
Array = npt.NDArray[Any]


class CannotCut(Exception):
    """A file cannot be cut so that it surely equals an export of the narrower network; says why in one line."""


@dataclass(frozen=True)
class Cut:
    """A layer's weight before and after, in torch's order: outputs, inputs per group, height, width."""

    layer: str
    whole: Shape
    narrow: Shape


class Cuts:
    """The cuts of one file, found by the weights' values.

    Args:
        by_weight: by `fingerprint` of the whole weight.
    """

    def __init__(self, by_weight: Mapping[str, Cut]) -> None:
        self._by_weight = by_weight
        self._used: set[str] = set()

    def widths(self, weight: Array, groups: int, channels: int) -> tuple[int, int, int]:
        """(outputs, inputs per group, groups) of a weighted operator in the narrower network.

        Args:
            weight: the whole one, (outputs, inputs per group, ...).
            groups: of the whole operator.
            channels: of its input in the narrower network.

        Raises:
            CannotCut: they do not fit the input.
        """
        mark = fingerprint(weight)
        cut = self._by_weight.get(mark)
        whole = (weight.shape[0], weight.shape[1])
        depthwise = groups > 1 and whole == (groups, 1)
        if cut is not None:
            self._used.add(mark)
            outputs, inputs = cut.narrow[:2]
        else:  # made by a rewrite: a pool or a batch norm as a depthwise convolution
            outputs, inputs = (channels, 1) if depthwise else whole
        layer = cut.layer if cut else "an operator that is no layer"
        if groups > 1 and not depthwise and (outputs, inputs) != whole:
            raise CannotCut(f"{layer}: grouped, and not depthwise")
        groups = outputs if depthwise else groups
        if inputs * groups != channels:
            raise CannotCut(f"{layer}: takes {inputs * groups} channels, but gets {channels}")
        return outputs, inputs, groups

    def finish(self) -> None:
        """Check that every narrower layer was met.

        Raises:
            CannotCut: the file does not have a layer's weight as the graph has it.
        """
        for mark, cut in self._by_weight.items():
            if mark not in self._used and cut.whole != cut.narrow:
                raise CannotCut(f"{cut.layer}: its weight was not found in the file")


def fingerprint(weight: Array) -> str:
    """What tells a weight from others, whatever its layout: a hash of its values.

    Args:
        weight: (outputs, inputs, ...), of any type.
    """
    last = np.moveaxis(weight, 1, -1).squeeze()
    return f"{last.dtype}{last.shape}{hashlib.sha256(np.ascontiguousarray(last).tobytes()).hexdigest()}"


def leading(value: Array, shape: Shape) -> Array:
    """The first numbers along each axis."""
    if value.ndim != len(shape) or any(new > old for new, old in zip(shape, value.shape, strict=True)):
        raise CannotCut(f"a constant of shape {value.shape} cannot be cut to {shape}")
    return np.ascontiguousarray(value[tuple(slice(extent) for extent in shape)])


def elementwise(wholes: Sequence[Shape], whole: Shape, news: Sequence[Shape | None]) -> tuple[Shape, list[Shape]]:
    """The result of an operator that broadcasts, and its inputs as they have to be.

    Args:
        wholes: inputs of the whole network.
        whole: its result.
        news: inputs of the narrower network; None for a constant, which is cut to fit.
    """
    rank = len(whole)
    result = []
    for axis in range(rank):
        extents = {
            new[axis - rank + len(new)]
            for old, new in zip(wholes, news, strict=True)
            if new is not None and axis - rank + len(old) >= 0 and old[axis - rank + len(old)] == whole[axis]
        }
        if len(extents) > 1:
            raise CannotCut(f"operands of different widths: {sorted(extents)}")
        result.append(extents.pop() if extents else whole[axis])
    inputs = []
    for old, new in zip(wholes, news, strict=True):
        fit = tuple(
            result[axis + rank - len(old)] if extent == whole[axis + rank - len(old)] else extent
            for axis, extent in enumerate(old)
        )
        if new is not None and new != fit:
            raise CannotCut(f"operands of different widths: {new} and {fit}")
        inputs.append(fit)
    return tuple(result), inputs


def same_axes(whole_input: Shape, whole: Shape, new_input: Shape) -> Shape:
    """The result of an operator that leaves channels alone: pools, pads and resizes."""
    if len(whole_input) != len(whole):
        raise CannotCut("an operator that changes the number of axes")
    for old, new, made in zip(whole_input, new_input, whole, strict=True):
        if old != new and old != made:
            raise CannotCut("an operator that changes an axis that became narrower")
    return tuple(new if old == made else made for old, new, made in zip(whole_input, new_input, whole, strict=True))


def reduced(whole_input: Shape, whole: Shape, new_input: Shape, axes: Sequence[int]) -> Shape:
    """The result of a mean or another reduction along axes."""
    gone = {axis % len(whole_input) for axis in axes}
    keeps = len(whole) == len(whole_input)
    return tuple(1 if axis in gone else extent for axis, extent in enumerate(new_input) if keeps or axis not in gone)


def concatenated(wholes: Sequence[Shape], whole: Shape, news: Sequence[Shape], axis: int) -> Shape:
    """The result of a concatenation along an axis."""
    axis %= len(whole)
    others = {(*new[:axis], *new[axis + 1 :]) for new in news}
    if len(others) > 1 or sum(old[axis] for old in wholes) != whole[axis]:
        raise CannotCut("parts of a concatenation of different widths")
    return (*news[0][:axis], sum(new[axis] for new in news), *news[0][axis + 1 :])


def reshaped(whole_input: Shape, whole: Shape, new_input: Shape) -> Shape:
    """The result of a reshape, which may join axes that became narrower, but not split them.

    Both shapes are cut into the shortest runs of axes with equal products: within each, numbers stay together.
    """
    if prod(whole_input) != prod(whole):
        raise CannotCut("a reshape that changes the number of values")
    result: list[int] = []
    start, place = 0, 0
    while place < len(whole):
        first = place
        stop, old, made = start, 1, 1
        while True:
            if old <= made and stop < len(whole_input):
                old, stop = old * whole_input[stop], stop + 1
            elif place < len(whole):
                made, place = made * whole[place], place + 1
            else:
                break
            if old == made and stop > start and place > first:
                break
        result += _run(whole_input[start:stop], whole[first:place], new_input[start:stop])
        start = stop
    if whole_input[start:] != new_input[start:]:
        raise CannotCut("a reshape that splits channels")
    return tuple(result)


def _run(old: Shape, made: Shape, new: Shape) -> Shape:
    if old == new:
        return made
    wide = [extent for extent in made if extent > 1]
    if len(wide) != 1:
        raise CannotCut("a reshape that splits channels")
    return tuple(prod(new) if extent > 1 else 1 for extent in made)
