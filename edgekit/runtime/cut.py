"""Parts of a .tflite file as files of their own, cut without the schema: standard library only.

Only three vectors of the main subgraph change (its inputs, its outputs, its operators), by the flatbuffers binary
format (https://flatbuffers.dev/internals). Everything else stays where it is, constants included.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

SUBGRAPHS, SIGNATURES = 2, 7
"""Fields of the table ``Model`` of TFLite's schema; those of ``SubGraph`` follow."""
TENSORS, INPUTS, OUTPUTS, OPERATORS = 0, 1, 2, 3
SHAPE = 0
"""Field of the table ``Tensor``."""
OPERATOR_INPUTS, OPERATOR_OUTPUTS = 1, 2


class Graph:
    """The main subgraph of a .tflite file: operators by place, tensors by index."""

    def __init__(self, data: bytes) -> None:
        """Read the file.

        Raises:
            ValueError: not a .tflite file, or cut short.
        """
        self._data = data
        try:
            if data[4:8] != b"TFL3":
                raise ValueError("no TFL3 at its start")
            self._model = self._word(0)
            self._graph = self._target(self._vector(self._field(self._model, SUBGRAPHS)), 0)
            entries = self._vector(self._field(self._graph, OPERATORS))
            self._operators = [self._target(entries, place) for place in range(self._word(entries))]
            self.inputs = self._numbers(self._graph, INPUTS)
            self.outputs = self._numbers(self._graph, OUTPUTS)
            self.reads = [self._numbers(each, OPERATOR_INPUTS) for each in self._operators]
            """Tensors that each operator reads, constants included; -1 stands for an omitted input."""
            self.writes = [self._numbers(each, OPERATOR_OUTPUTS) for each in self._operators]
        except struct.error:
            raise ValueError("the file is cut short") from None

    def shape(self, tensor: int) -> list[int]:
        """Shape of one tensor, as the file states it."""
        tensors = self._vector(self._field(self._graph, TENSORS))
        return self._numbers(self._target(tensors, tensor), SHAPE)

    def cut(self, first: int, last: int, alone: bool = False) -> bytes:
        """The operators `first` to `last` as a file.

        Its inputs are the activations they read from outside, its outputs those of their results that are used later;
        with `alone` only the first result of the last operator.
        """
        made: set[int] = set()
        for writes in self.writes[first : last + 1]:
            made.update(writes)
        before = {tensor for writes in self.writes[:first] for tensor in writes}.union(self.inputs)
        needed: set[int] = set(self.outputs).union(*self.reads[last + 1 :])
        taken = {tensor for reads in self.reads[first : last + 1] for tensor in reads}
        data = bytearray(self._data)
        self._put(data, INPUTS, sorted(before & taken))
        self._put(data, OUTPUTS, self.writes[last][:1] if alone else sorted(made & needed) or self.writes[last])
        entries = self._vector(self._field(self._graph, OPERATORS))
        struct.pack_into("<I", data, entries, last - first + 1)
        for place, target in enumerate(self._operators[first : last + 1]):
            at = entries + 4 + 4 * place
            struct.pack_into("<I", data, at, target - at)  # tables come after the vector, and entries move forward
        signatures = self._field(self._model, SIGNATURES)
        if signatures:
            self._point(data, signatures, [])
        return bytes(data)

    def _put(self, data: bytearray, field: int, tensors: Iterable[int]) -> None:
        self._point(data, self._field(self._graph, field), list(tensors))

    def _point(self, data: bytearray, at: int, numbers: Sequence[int]) -> None:
        """Let the offset at `at` point to a new vector of numbers at the file's end."""
        data.extend(bytes(-len(data) % 4))
        struct.pack_into("<I", data, at, len(data) - at)
        data.extend(struct.pack(f"<{len(numbers) + 1}i", len(numbers), *numbers))

    def _word(self, at: int) -> int:
        value: int = struct.unpack_from("<I", self._data, at)[0]
        return value

    def _field(self, table: int, number: int) -> int:
        """Position of a field's value; 0 if the table has none."""
        vtable = table - struct.unpack_from("<i", self._data, table)[0]
        size: int = struct.unpack_from("<H", self._data, vtable)[0]
        place = 4 + 2 * number
        offset: int = struct.unpack_from("<H", self._data, vtable + place)[0] if place < size else 0
        return table + offset if offset else 0

    def _vector(self, field: int) -> int:
        return field + self._word(field)

    def _target(self, vector: int, place: int) -> int:
        at = vector + 4 + 4 * place
        return at + self._word(at)

    def _numbers(self, table: int, number: int) -> list[int]:
        field = self._field(table, number)
        if not field:
            return []
        vector = self._vector(field)
        return list(struct.unpack_from(f"<{self._word(vector)}i", self._data, vector + 4))
