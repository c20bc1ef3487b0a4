"""Which layer of a file a device computes differently from this machine.

The operators up to one layer are cut out as a separate file, which both run on the same images; bisection finds where
their outputs start to differ. The result is *a* layer whose outputs differ while those of the one before agree; it is
the first one unless a difference disappeared along the way.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.graph.names import layer
from edgekit.runtime.cut import Graph
from edgekit.types import Artifact

TOLERANCE = 1e-3
"""Floats that differ by more than this share of the largest one differ by more than rounding error."""
Runner = Callable[[Artifact, Path], npt.NDArray[Any]]
"""Outputs, [images, values], of an artifact whose file is in a folder."""


@dataclass(frozen=True)
class Prefix:
    """A file up to one of its layers."""

    layer: str
    build: Callable[[], bytes]


@dataclass(frozen=True)
class _Gap:
    """How far apart two outputs are."""

    most: float
    """Largest difference: in steps for integers, relative to the largest value for floats."""
    share: float
    """Share of values that differ, 0..1."""
    integer: bool

    @property
    def wrong(self) -> bool:
        return not self.most <= (1 if self.integer else TOLERANCE)  # NaN is wrong, too

    def __str__(self) -> str:
        most = (
            f"{self.most:.0f} step{'s' if self.most != 1 else ''}"
            if self.integer
            else f"{self.most:.2g} of the largest"
        )
        return f"max {most}, {100 * self.share:.3g} % of its outputs"


def first(artifact: Artifact, folder: Path, there: Runner, here: Runner) -> str:
    """Name the layer.

    Args:
        artifact: what gives different outputs there.
        folder: where its file is.
        there: runs a file on the device.
        here: runs a file on this machine.

    Returns:
        ``<layer> (max <n> steps, <share> of its outputs)``, or ``none ...``, and what else is known.
    """
    if artifact.format not in READERS:
        return f"none: {artifact.format} files cannot be cut into parts"
    prefixes = list(READERS[artifact.format]((folder / artifact.path).read_bytes(), artifact.precision == "int8"))
    with tempfile.TemporaryDirectory() as scratch:

        @cache
        def gap(place: int) -> _Gap:
            name = f"to-{place}.{artifact.format}"
            (Path(scratch) / name).write_bytes(prefixes[place].build())
            part = replace(artifact, path=name)
            return _gap(there(part, Path(scratch)), here(part, Path(scratch)))

        wrong = _bisect(len(prefixes), lambda place: gap(place).wrong)
        rounded = _bisect(len(prefixes), lambda place: gap(place).most != 0)
        if rounded is None:
            return "none: every part of the file agrees, so the engine computes the whole file differently"
        start = f"{prefixes[rounded].layer} ({gap(rounded)})"
        if wrong is None:
            return f"none by more than rounding; from {start} on they round differently"
        if rounded == wrong:
            return start
        return f"{prefixes[wrong].layer} ({gap(wrong)}); from {start} on they round differently"


def _bisect(count: int, differs: Callable[[int], bool]) -> int | None:
    """A place that differs while the one before does not; None if the last one does not differ."""
    low, high = -1, count - 1
    if high < 0 or not differs(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if differs(middle) else (middle, high)
    return high


def _gap(there: npt.NDArray[Any], here: npt.NDArray[Any]) -> _Gap:
    integer = here.dtype.kind in "iu"
    one, other = there.astype(np.float64), here.astype(np.float64)
    if one.shape != other.shape:
        return _Gap(float("nan"), 1.0, integer)
    difference = np.abs(one - other)
    scale = 1.0 if integer else np.abs(other).max() or 1.0
    return _Gap(float(difference.max() / scale), float((difference != 0).mean()), integer)


def _onnx(data: bytes, int8: bool) -> Sequence[Prefix]:
    import onnx

    model = onnx.load_from_string(data)
    made = {output: node for node in model.graph.node for output in node.output}
    live = {port.name for port in model.graph.input}
    prefixes = []

    def cut(output: str) -> bytes:
        part, needed = onnx.ModelProto(), {output}
        part.CopyFrom(model)
        nodes = []
        for node in reversed(model.graph.node):
            if needed & set(node.output):
                nodes.append(node)
                needed.update(node.input)
        del part.graph.node[:], part.graph.output[:], part.graph.initializer[:], part.graph.value_info[:]
        part.graph.node.extend(reversed(nodes))
        part.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in needed)
        part.graph.output.append(onnx.ValueInfoProto(name=output))
        return bytes(part.SerializeToString())

    for node in model.graph.node:
        if not live & set(node.input):
            continue
        live.update(node.output)
        source = made.get(node.input[0]) if node.op_type == "QuantizeLinear" else node
        if source is not None and (not int8 or node.op_type == "QuantizeLinear"):
            prefixes.append(Prefix(layer(source.name), lambda output=node.output[0]: cut(output)))  # type: ignore[misc]
    return prefixes


def _tflite(data: bytes, int8: bool) -> Sequence[Prefix]:
    from edgekit.graph.tflite_table import MOVING, Table

    table, graph = Table(data), Graph(data)
    prefixes = []
    for place, operator in enumerate(table.graph.operators):
        tensor = table.graph.tensors[operator.outputs[0]]
        if table.kind(operator) not in MOVING and (not int8 or table.types[tensor.type] == "INT8"):
            prefixes.append(Prefix(layer(tensor.name.decode()), lambda last=place: graph.cut(0, last, alone=True)))  # type: ignore[misc]
    return prefixes


READERS = {"onnx": _onnx, "tflite": _tflite}
