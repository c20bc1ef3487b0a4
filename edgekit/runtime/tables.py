"""Tables of a FlatBuffers file as dictionaries, every offset checked. Standard library only.

Source: FlatBuffers, "FlatBuffer Internals".
"""

from __future__ import annotations

import struct
from typing import Any, Union

Kind = Union[int, str, "tuple[str]", "dict[int, str]"]
"""Bytes of a scalar; minus the bytes of one value of a vector; the name of a table, in a tuple for a vector of tables;
of a union, the tables by the number in the field before it."""
Schema = dict[str, tuple[tuple[str, Kind], ...]]
"""Fields of each table in order, each with its name."""

_U32 = struct.Struct("<I").unpack_from
_I32 = struct.Struct("<i").unpack_from
_PAIR = struct.Struct("<2H").unpack_from


class Damaged(ValueError):
    """An offset leads out of the file."""


def decode(data: bytes, schema: Schema, root: str) -> dict[str, Any]:
    """The root table of a file.

    Args:
        data: the file.
        schema: of all tables that are followed; the fields of others are skipped.
        root: name of its first table.

    Returns:
        Scalars as unsigned integers, vectors of scalars as bytes, tables as dictionaries; absent fields are left out.

    Raises:
        Damaged: an offset leads out of the file.
    """
    try:
        return _Reader(data, schema).table(root, _U32(data, 0)[0])
    except struct.error:
        raise Damaged("an offset leads out of the file") from None


class _Reader:
    def __init__(self, data: bytes, schema: Schema) -> None:
        self._data, self._schema = data, schema
        self._seen: dict[tuple[str, int], dict[str, Any]] = {}

    def table(self, name: str, at: int) -> dict[str, Any]:
        if (name, at) in self._seen:  # tables may be shared
            return self._seen[name, at]
        data, found = self._data, {}  # type: bytes, dict[str, Any]
        self._seen[name, at] = found
        layout = at - _I32(data, at)[0]
        if layout < 0:
            raise Damaged("an offset leads out of the file")
        size = _PAIR(data, layout)[0]
        places = struct.unpack_from(f"<{max(size - 4, 0) // 2}H", data, layout + 4)
        before: Any = 0
        for (field, kind), inside in zip(self._schema[name], places):  # noqa: B905 - Python 3.9 has no strict
            if inside:
                found[field] = self._value(kind, at + inside, before)
            before = found.get(field, 0)
        return found

    def _value(self, kind: Kind, at: int, before: Any) -> Any:
        data = self._data
        if isinstance(kind, int) and kind > 0:
            if at + kind > len(data):
                raise Damaged("a field leads out of the file")
            return int.from_bytes(data[at : at + kind], "little")
        target = at + _U32(data, at)[0]
        if isinstance(kind, dict):
            return self.table(kind[before], target) if before in kind else {}
        if isinstance(kind, str):
            return self.table(kind, target)
        count, each = _U32(data, target)[0], 4 if isinstance(kind, tuple) else -kind
        start = target + 4
        if start + count * each > len(data):
            raise Damaged("a vector leads out of the file")
        if isinstance(kind, tuple):
            offsets = struct.unpack_from(f"<{count}I", data, start)
            return [self.table(kind[0], start + 4 * place + offset) for place, offset in enumerate(offsets)]
        return data[start : start + count * each]
