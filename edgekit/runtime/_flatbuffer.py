"""Whether a .tflite file is intact: tflite-runtime does not check, and a truncated file kills the process (SIGSEGV)."""

from __future__ import annotations

import struct
from typing import Union

from edgekit.runtime.errors import RuntimeFault

# Fields of each table in order: bytes of a scalar; minus the bytes of one value of a vector or string; the name of a
# table, in a tuple for a vector of tables. The fields of "any" are not checked. Source: TensorFlow, schema.fbs.
_Field = Union[int, str, "tuple[str]"]
_TABLES: dict[str, tuple[_Field, ...]] = {
    "any": (),
    "model": (4, ("code",), ("graph",), -1, ("buffer",), -4, ("metadata",), ("any",)),
    "code": (1, -1, 4, 4),
    "graph": (("tensor",), -4, -4, ("operator",), -1),
    "tensor": (-4, 1, 4, -1, "quantization", 1, "any", -4, 1),
    "quantization": (-4, -4, -4, -8, 1, "any", 4),
    "operator": (4, -4, -4, 1, "any", -1, 1, -1, -4),
    "buffer": (-1,),
    "metadata": (-1, 4),
}
_NEEDED = {"model": (1, 2, 4), "graph": (0, 1, 2, 3), "operator": (1, 2)}


def check(data: bytes, where: str) -> None:
    """Follow every offset in a .tflite file.

    Source: FlatBuffers, "FlatBuffer Internals". Values are the engine's to judge.

    Raises:
        RuntimeFault: one of them leads out of the file.
    """
    try:
        if data[4:8] != b"TFL3":
            raise ValueError("no TFL3 at its start")
        _follow(data)
    except (struct.error, ValueError) as error:
        why = "an offset leads out of the file" if isinstance(error, struct.error) else str(error)
        raise RuntimeFault(f"{where}: not an intact .tflite file ({why}); fetch it again") from None


def _follow(data: bytes) -> None:
    def number(kind: str, at: int) -> int:
        if at < 0:
            raise ValueError("an offset leads out of the file")
        value: int = struct.unpack_from(kind, data, at)[0]
        return value

    waiting, seen = [("model", number("<I", 0))], set()
    while waiting:
        name, table = waiting.pop()
        if (name, table) in seen:  # tables may be shared
            continue
        seen.add((name, table))
        layout = table - number("<i", table)
        fields = (number("<H", layout) - 4) // 2
        if fields < 0 or layout + 4 + 2 * fields > len(data):
            raise ValueError("a table leads out of the file")
        for index, kind in enumerate(_TABLES[name]):
            inside = number("<H", layout + 4 + 2 * index) if index < fields else 0
            if not inside:
                if index in _NEEDED.get(name, ()):
                    raise ValueError(f"field {index} of a {name} is missing")
                continue
            if table + inside + (kind if isinstance(kind, int) and kind > 0 else 4) > len(data):
                raise ValueError("a field leads out of the file")
            if isinstance(kind, int) and kind > 0:
                continue
            target = table + inside + number("<I", table + inside)
            if isinstance(kind, str):
                waiting.append((kind, target))
                continue
            count, each = number("<I", target), 4 if isinstance(kind, tuple) else -kind
            if target + 4 + count * each > len(data):
                raise ValueError("a vector leads out of the file")
            if isinstance(kind, tuple):
                places = range(target + 4, target + 4 + 4 * count, 4)
                waiting += [(kind[0], place + number("<I", place)) for place in places]
