"""Whether a .tflite file is intact and holds all that it computes with.

tflite-runtime does not check the first, and a truncated file kills the process (SIGSEGV). Weights in another file are
covered by no hash and no signature of this one.
"""

from __future__ import annotations

import struct
from typing import Union

from edgekit.runtime.errors import RuntimeFault

# Fields of each table in order: bytes of a scalar; minus the bytes of one value of a vector or string; the name of a
# table, in a tuple for a vector of tables. The fields of "any" are not checked. Source: LiteRT, schema.fbs.
_Field = Union[int, str, "tuple[str]"]
_TABLES: dict[str, tuple[_Field, ...]] = {
    "any": (),
    "model": (4, ("code",), ("graph",), -1, ("buffer",), -4, ("metadata",), ("any",), ("outside",), ("outside",)),
    "code": (1, -1, 4, 4),
    "graph": (("tensor",), -4, -4, ("operator",), -1),
    "tensor": (-4, 1, 4, -1, "quantization", 1, "any", -4, 1, ("any",), 4),
    "quantization": (-4, -4, -4, -8, 1, "any", 4),
    "operator": (4, -4, -4, 1, "any", -1, 1, -1, -4, 8, 8, 1, "any"),
    "buffer": (-1, 8, 8),
    "metadata": (-1, 4),
}
_NEEDED = {"model": (1, 2, 4), "graph": (0, 1, 2, 3), "operator": (1, 2)}
_OUTSIDE = {"tensor": 10, "buffer": 1, "operator": 9}
"""Field that may lead out of the flatbuffer: the number of a buffer in another file (0: none), or an offset from the
start of the file (up to 1: none), which the size follows; in files above 2 GiB, data comes after the flatbuffer."""
_CUSTOM = 32
_KNOWN = frozenset(
    (b"TFLite_Detection_PostProcess", b"AudioSpectrogram", b"Mfcc", b"NumericVerify", b"Convolution2DTransposeBias",
     b"MaxPoolingWithArgmax2D", b"MaxUnpooling2D")
)  # fmt: skip
"""Custom operators that come with LiteRT."""
_U32 = struct.Struct("<I").unpack_from
_U64 = struct.Struct("<Q").unpack_from
_I8 = struct.Struct("<b").unpack_from
_I32 = struct.Struct("<i").unpack_from
_PAIR = struct.Struct("<2H").unpack_from


def check(data: bytes, where: str, operators: bool = True) -> None:
    """Follow every offset in a .tflite file.

    Source: FlatBuffers, "FlatBuffer Internals". Values are the engine's to judge.

    Args:
        data: the file.
        where: its name in error messages.
        operators: also refuse custom operators, but for those that engines bring along.

    Raises:
        RuntimeFault: one of them leads out of the file, or weights or operators lie outside.
    """
    try:
        if data[4:8] != b"TFL3":
            raise ValueError("no TFL3 at its start")
        codes = _follow(data, where)
    except (struct.error, ValueError) as error:
        why = "an offset leads out of the file" if isinstance(error, struct.error) else str(error)
        raise RuntimeFault(f"{where}: not an intact .tflite file ({why}); fetch it again") from None
    for name in sorted(codes - _KNOWN) if operators else ():
        word = ascii(name[:80].decode(errors="replace"))[1:-1]
        raise RuntimeFault(f"{where}: custom operator {word} is not part of LiteRT; convert the model without it")


def _follow(data: bytes, where: str) -> set[bytes]:
    """Names of the custom operators."""
    end = len(data)
    codes: set[bytes] = set()
    waiting, seen = [("model", _U32(data, 0)[0])], set()
    while waiting:
        entry = waiting.pop()
        if entry in seen:  # tables may be shared
            continue
        seen.add(entry)
        name, table = entry
        layout = table - _I32(data, table)[0]
        if layout < 0:
            raise ValueError("an offset leads out of the file")
        fields = (_PAIR(data, layout)[0] - 4) // 2
        if fields < 0 or layout + 4 + 2 * fields > end:
            raise ValueError("a table leads out of the file")
        places = struct.unpack_from(f"<{fields}H", data, layout + 4)
        kinds, needed = _TABLES[name], _NEEDED.get(name, ())
        for index in needed:
            if index >= fields or not places[index]:
                raise ValueError(f"field {index} of a {name} is missing")
        for inside, kind in zip(places, kinds):  # noqa: B905 - Python 3.9 has no strict
            if not inside:
                continue
            at = table + inside
            if isinstance(kind, int) and kind > 0:
                if at + kind > end:
                    raise ValueError("a field leads out of the file")
                continue
            target = at + _U32(data, at)[0]
            if isinstance(kind, str):
                waiting.append((kind, target))
                continue
            count, each = _U32(data, target)[0], 4 if isinstance(kind, tuple) else -kind
            if target + 4 + count * each > end:
                raise ValueError("a vector leads out of the file")
            if isinstance(kind, tuple) and count:
                if kind[0] == "outside":
                    raise _elsewhere(where)
                offsets = struct.unpack_from(f"<{count}I", data, target + 4)
                waiting += [(kind[0], target + 4 + 4 * place + offset) for place, offset in enumerate(offsets)]
        outside = _OUTSIDE.get(name, fields)
        if outside < fields and places[outside]:
            if name == "tensor":
                if _U32(data, table + places[outside])[0]:
                    raise _elsewhere(where)
            else:
                start = _U64(data, table + places[outside])[0]
                size = _U64(data, table + places[outside + 1])[0] if fields > outside + 1 and places[outside + 1] else 0
                if start > 1 and start + size > end:
                    raise ValueError(f"the data of one {name} lies out of the file")
        elif name == "code" and _custom(data, table, places):
            codes.add(_word(data, table, places))
    return codes


def _custom(data: bytes, table: int, places: tuple[int, ...]) -> bool:
    """Whether an operator code is that of a custom operator: the larger of an old field and a new one."""
    old = _I8(data, table + places[0])[0] if places and places[0] else 0
    new = _I32(data, table + places[3])[0] if len(places) > 3 and places[3] else 0
    return bool(max(old, new) == _CUSTOM)


def _word(data: bytes, table: int, places: tuple[int, ...]) -> bytes:
    """Name of a custom operator; its vector has been checked."""
    if len(places) < 2 or not places[1]:
        return b""
    at = table + places[1]
    at += _U32(data, at)[0]
    return data[at + 4 : at + 4 + _U32(data, at)[0]]


def _elsewhere(where: str) -> RuntimeFault:
    return RuntimeFault(
        f"{where}: its weights lie in another file, which no hash or signature covers: convert it again, into one file"
    )
