"""A model file in terms that both formats share, so that counts mean the same for ONNX and TFLite."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

BITS = {
    "float64": 64, "float32": 32, "float16": 16, "bfloat16": 16, "float8": 8,
    "int64": 64, "int32": 32, "int16": 16, "int8": 8, "int4": 4, "int2": 2,
    "uint64": 64, "uint32": 32, "uint16": 16, "uint8": 8, "uint4": 4, "uint2": 2,
    "bool": 8, "complex64": 64, "complex128": 128,
}  # fmt: skip
INDEXES = {"int64", "uint64", "bool", "string"}
"""Types of constants that hold indices, shapes or flags rather than data."""


@dataclass(frozen=True)
class Value:
    """A tensor of the file."""

    shape: tuple[int, ...] | None
    """None if neither the file nor shape inference knows it."""
    dtype: str
    constant: bool = False
    """Whether its content is stored in the file."""

    @property
    def elements(self) -> int:
        """Number of elements; 0 if the shape is unknown."""
        return math.prod(self.shape) if self.shape is not None else 0

    @property
    def bytes(self) -> int:
        """Size as a dense array."""
        return (self.elements * BITS.get(self.dtype, 0) + 7) // 8


@dataclass(frozen=True)
class Op:
    """An operator; an omitted input is the empty string."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class FileGraph:
    """Operators in the file's order of execution, and the tensors by name."""

    ops: tuple[Op, ...]
    values: Mapping[str, Value]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    state: Collection[str] = field(default=())
    """Tensors that keep their content from one inference to the next."""

    def histogram(self) -> dict[str, int]:
        """Number of operators of each type, most frequent first."""
        counts = Counter(op.kind for op in self.ops)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def stored(graph: FileGraph) -> dict[str, str]:
    """The constants of a graph and all tensors computed from constants alone, each with its largest source constant."""
    leaves = {name: name for name, value in graph.values.items() if value.constant}
    for op in graph.ops:
        given = [name for name in op.inputs if name]
        if given and all(name in leaves for name in given):
            largest = max((leaves[name] for name in given), key=lambda name: graph.values[name].elements)
            leaves.update(dict.fromkeys(filter(None, op.outputs), largest))
    return leaves


def parameters(graph: FileGraph, weighted: Collection[str], aside: Mapping[str, Collection[int]]) -> int:
    """Number of parameters: elements of weights, biases and tables; not of scales, zero points, shapes and indices.

    A weight that is stored compressed and restored by other operators (DequantizeLinear, Cast and Mul) counts once.

    Args:
        graph: the model.
        weighted: types of operators whose constants are all weights or biases.
        aside: by type of operator, positions of inputs that are settings, not parameters.
    """
    leaves = stored(graph)
    weights = set()
    for op in graph.ops:
        data = [name for name in op.inputs if name and name not in leaves]
        if all(name in graph.values and graph.values[name].elements == 1 for name in data):
            continue  # constants only, or a scale that is computed at run time
        for place, name in enumerate(op.inputs):
            leaf = leaves.get(name)
            if leaf is None or place in aside.get(op.kind, ()):
                continue
            value = graph.values[leaf]
            plain = value.elements > 1 and value.dtype not in INDEXES | {"int32"}
            if op.kind in weighted or plain:
                weights.add(leaf)
    return sum(graph.values[leaf].elements for leaf in weights)


def peak(graph: FileGraph) -> tuple[int, str]:
    """Maximum bytes of activations alive at the same time, and the operator at which that occurs.

    In the file's order, each tensor lives from the operator that makes it (inputs: from the start) to the last one that
    reads it (outputs: to the end). Nothing is computed in place, and scratch memory of kernels is not counted.
    """
    leaves = stored(graph)
    first: dict[str, int] = dict.fromkeys((*graph.inputs, *graph.state), 0)
    last: dict[str, int] = {}
    for step, op in enumerate(graph.ops):
        for name in filter(None, op.outputs):
            first.setdefault(name, step)
        for name in filter(None, (*op.inputs, *op.outputs)):
            last[name] = step
    end = len(graph.ops) - 1
    last.update(dict.fromkeys((*graph.outputs, *graph.state), end))
    change = [0] * (len(graph.ops) + 1)
    for name, start in first.items():
        if name not in leaves and name in graph.values:
            change[start] += graph.values[name].bytes
            change[last.get(name, 0) + 1] -= graph.values[name].bytes
    alive, most, at = 0, 0, ""
    for step, op in enumerate(graph.ops):
        alive += change[step]
        if alive > most:
            most, at = alive, f"{op.kind} {op.name}".strip()
    return most, at


def sizes(values: Iterable[Value]) -> dict[str, int]:
    """Bytes of the constants by data type, largest first."""
    counts: Counter[str] = Counter()
    for value in values:
        if value.constant:
            counts[value.dtype] += value.bytes
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
