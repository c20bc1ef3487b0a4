"""Whether an .onnx file holds all that it computes with, read from its bytes: no protobuf, no engine.

Tensors of an ONNX file may lie in another file, which no hash and no signature of this one covers.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from edgekit.runtime.errors import RuntimeFault

if TYPE_CHECKING:
    from collections.abc import Container

# What lies in each message, by field number; then the newest field that is known. Source: ONNX, onnx.proto.
_MESSAGES: dict[str, tuple[dict[int, str], int]] = {
    "ModelProto": ({7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"}, 26),
    "TrainingInfoProto": ({1: "GraphProto", 2: "GraphProto"}, 4),
    "FunctionProto": ({7: "NodeProto", 11: "AttributeProto", 1: "name", 10: "domain"}, 14),
    "GraphProto": ({1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"}, 16),
    "NodeProto": ({5: "AttributeProto", 4: "name", 7: "domain"}, 10),
    "AttributeProto": (
        {5: "TensorProto", 10: "TensorProto", 6: "GraphProto", 11: "GraphProto", 22: "SparseTensorProto",
         23: "SparseTensorProto"}, 23,
    ),
    "SparseTensorProto": ({1: "TensorProto", 2: "TensorProto"}, 3),
    "TensorProto": ({13: "elsewhere", 14: "elsewhere"}, 16),
}  # fmt: skip
_DOMAINS = frozenset(
    (b"", b"ai.onnx", b"ai.onnx.ml", b"ai.onnx.training", b"ai.onnx.preview", b"ai.onnx.preview.training",
     b"com.microsoft", b"com.microsoft.nchwc", b"com.microsoft.experimental", b"com.ms.internal.nhwc")
)  # fmt: skip
"""Operators of these come with the engine."""
_OUTSIDE = frozenset((b"EPContext", b"PythonOp", b"PythonOpGrad", b"TritonOp"))
"""Operators among them whose work is in a file, a driver or a Python module outside."""
_NESTED = re.compile(rb"[\x2a\x32\x52\x5a\xaa\xb2\xba\xd2\xda]").search
"""Finds the first byte that a field of an attribute with a tensor or a graph begins with; most have none."""


def check(data: bytes, where: str, operators: bool = True) -> None:
    """Read every message that can hold a tensor or an operator; contents are skipped.

    Messages wait in a list, so that a file cannot nest them too deep, and each byte is looked at once at most.

    Args:
        data: the file.
        where: its name in error messages.
        operators: also refuse operators that neither the file nor an engine defines.

    Raises:
        RuntimeFault: a tensor or an operator needs something outside the file, or it is damaged.
    """
    try:
        if data[4:8] == b"ORTM":
            raise ValueError("it is in ONNX Runtime's own format")
        nodes, functions = _walk(data, where)
    except (IndexError, ValueError) as error:
        why = "it ends early" if isinstance(error, IndexError) else str(error)
        raise RuntimeFault(f"{where}: not an intact .onnx file ({why}); fetch or export it again") from None
    for domain, name in sorted(nodes):
        if name in _OUTSIDE:
            raise RuntimeFault(f"{where}: operator {_text(name)} runs what is not in the file; export it without")
        if operators and domain not in _DOMAINS and (domain, name) not in functions:
            raise RuntimeFault(
                f"{where}: operator {_text(domain)}.{_text(name)} is defined neither in the file nor by an engine; "
                "export it with operators of ONNX"
            )


def _walk(data: bytes, where: str) -> tuple[set[tuple[bytes, bytes]], set[tuple[bytes, bytes]]]:
    """Domain and name of every operator, and of every function of the file."""
    nodes: set[tuple[bytes, bytes]] = set()
    functions: set[tuple[bytes, bytes]] = set()
    waiting = [("ModelProto", 0, len(data))]
    while waiting:
        kind, start, end = waiting.pop()
        inside, newest = _MESSAGES[kind]
        name = domain = b""
        for number, first, last in _fields(data, start, end, inside):
            what = inside.get(number)
            if what is None:
                if number > newest:
                    raise ValueError(f"field {number} of a {kind} is unknown; update edgekit")
            elif what == "elsewhere":
                if first < 0 and last == 0 and number == 14:  # "here"
                    continue
                raise _elsewhere(data, start, end, where)
            elif first < 0:
                continue  # a number where a message belongs: every reader skips it
            elif what == "name":
                name = data[first:last]
            elif what == "domain":
                domain = data[first:last]
            elif what != "AttributeProto" or _NESTED(data, first, last):
                waiting.append((what, first, last))
        if kind == "NodeProto":
            nodes.add((domain, name))
        elif kind == "FunctionProto":
            functions.add((domain, name))
    return nodes, functions


def _fields(data: bytes, at: int, end: int, wanted: Container[int]) -> list[tuple[int, int, int]]:
    """Those fields of a message that are wanted, or above 16: number, start and end of the content.

    Of a varint -1 and its value; of another number -1 and 1.

    Raises:
        IndexError: the file ends early.
        ValueError: no protocol buffer.
    """
    found = []
    while at < end:
        tag = data[at]
        at += 1
        if tag > 127:
            tag, at = _varint(data, at - 1)
        number, wire = tag >> 3, tag & 7
        first, last = -1, 1
        if wire == 2:
            size = data[at]
            at += 1
            if size > 127:
                size, at = _varint(data, at - 1)
            first, last = at, at + size
            at = last
        elif wire == 0:
            last, at = _varint(data, at)
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise ValueError("a field has no valid type")
        if number in wanted or number > 16:
            found.append((number, first, last))
        elif not number:
            raise ValueError("a field has no number")
    if at > end:
        raise ValueError("a field leads out of its message")
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number has more than 64 bits")


def _elsewhere(data: bytes, start: int, end: int, where: str) -> RuntimeFault:
    name, location = "", ""
    for number, first, last in _fields(data, start, end, (8, 13)):
        if number == 8 and first >= 0:
            name = f' "{_text(data[first:last])}"'
        elif number == 13 and first >= 0:
            entry = {n: data[a:b] for n, a, b in _fields(data, first, last, (1, 2)) if a >= 0}
            if entry.get(1) == b"location":
                location = f', "{_text(entry.get(2, b""))}"'
    return RuntimeFault(
        f"{where}: tensor{name} lies in another file{location}, which no hash or signature covers: store all in one: "
        "python -c \"import onnx; onnx.save(onnx.load('model.onnx'), 'whole.onnx')\""
    )


def _text(word: bytes) -> str:
    return ascii(word[:80].decode(errors="replace"))[1:-1]
