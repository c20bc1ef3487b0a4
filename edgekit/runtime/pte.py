"""What a .pte file holds: an ExecuTorch program. Standard library only.

Source: ExecuTorch 1.5, ``schema/program.fbs`` and ``exir/_serialize/_program.py`` (the extended header).
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from edgekit.runtime.errors import RuntimeFault
from edgekit.runtime.tables import Damaged, Kind, Schema, decode

MAGIC = b"ET12"
"""Identifier of the format; another number is another version."""
_HEADER = b"eh00"
_XNNPACK_HEADER = b"XH00"
_FLOATS = (1, 2, 14)
_SIDES = ("inputs", "outputs")
_VALUES = {5: "tensor"}
_CALLS = {1: "kernel_call", 2: "delegate_call"}
_EXTERNAL = 1
_SCHEMA: Schema = {
    "program": (
        ("version", 4), ("plans", ("plan",)), ("constants", ("buffer",)), ("delegate_data", ("buffer",)),
        ("segments", ("segment",)), ("constant_segment", "offsets"), ("mutable_segments", ("offsets",)),
        ("named_data", ("named",)),
    ),
    "plan": (
        ("name", -1), ("container", "any"), ("values", ("value",)), ("inputs", -4), ("outputs", -4),
        ("chains", ("chain",)), ("operators", ("operator",)), ("delegates", ("delegate",)), ("sizes", -8),
    ),
    "buffer": (("data", -1),),
    "segment": (("offset", 8), ("size", 8)),
    "offsets": (("segment", 4), ("offsets", -8)),
    "named": (("key", -1), ("segment", 4)),
    "any": (),
    "value": (("kind", 1), ("value", _VALUES)),
    "tensor": (
        ("type", 1), ("storage_offset", 4), ("sizes", -4), ("order", -1), ("gradient", 1), ("buffer", 4),
        ("allocation", "any"), ("layout", 1), ("dynamism", 1), ("extra", "extra"),
    ),
    "extra": (("segment", 8), ("name", -1), ("location", 1)),
    "chain": (("inputs", -4), ("outputs", -4), ("instructions", ("instruction",))),
    "instruction": (("kind", 1), ("call", _CALLS)),
    "kernel_call": (("operator", 4), ("arguments", -4)),
    "delegate_call": (("delegate", 4), ("arguments", -4)),
    "operator": (("name", -1), ("overload", -1)),
    "delegate": (("id", -1), ("processed", "reference")),
    "reference": (("location", 1), ("index", 4)),
}  # fmt: skip
_KNOWN = ("aten::", "dim_order_ops::", "executorch_prim::", "prim::", "quantized_decomposed::")
"""Names of operators that ExecuTorch brings along."""


_KINDS = (
    "", "Add", "FullyConnected", "Softmax", "Sigmoid", "StaticTranspose", "Clamp", "Conv2d", "Div",
    "StaticResizeBilinear2D", "StaticConstantPad", "AvgPooling2d", "Minimum", "DepthwiseConv2d", "MaxPooling2d",
    "Multiply", "Subtract", "Floor", "Convert", "GlobalAvgPooling2d", "StaticReshape", "ArgMaxPooling2d", "SquareRoot",
    "Ceiling", "Hardswish", "LeakyReLU", "Maximum", "Negate", "Square", "ELU", "Abs", "PReLU", "Concatenate2",
    "Concatenate3", "Concatenate4", "StaticSlice", "ScaledDotProductAttention", "BatchMatrixMultiply", "Concatenate5",
    "ConvTranspose2d", "ReciprocalSquareRoot", "Log", "Gelu", "Tanh", "Exp", "Sin", "Copy", "Cos",
)  # fmt: skip
_OUTPUT = {
    2: 3, 3: 1, 4: 1, 5: 3, 6: 1, 7: 18, 9: 3, 10: 4, 11: 11, 13: 18, 14: 11, 17: 1, 18: 1, 19: 1, 20: 3, 21: 7, 22: 1,
    23: 1, 24: 1, 25: 2, 27: 1, 28: 1, 29: 2, 30: 1, 32: 5, 33: 5, 34: 5, 35: 4, 36: 5, 38: 5, 39: 18,
    **dict.fromkeys(range(40, 48), 1),
}  # fmt: skip
"""Place of the output's number in each kind of operator; in the others it is 2."""
_ANY_NODE: tuple[tuple[str, Kind], ...] = tuple((str(place), 4) for place in range(20))
_XNNPACK: Schema = {
    "graph": (("version", -1), ("nodes", ("node",)), ("values", ("value",))),
    "node": (("kind", 1), ("operator", dict.fromkeys(range(1, len(_KINDS)), "operator"))),
    "operator": _ANY_NODE,
    "value": (("kind", 1), ("value", {1: "tensor", 2: "quantized"})),
    "quantized": (("tensor", "tensor"),),
    "tensor": (
        ("type", 2), ("dimensions", 4), ("sizes", -4), ("constant", 4), ("external", 4), ("flags", 4), ("id", 4),
    ),
}  # fmt: skip
"""Source: ExecuTorch 1.5, ``backends/xnnpack/serialization/runtime_schema.fbs``."""


class Tensor(NamedTuple):
    """An input or an output."""

    shape: tuple[int, ...]
    type: int
    """Number of the type in ``schema/scalar_type.fbs``: 6 is float32."""


class Contents(NamedTuple):
    """Of the first method of a program."""

    delegates: tuple[str, ...]
    """The backend of each call into one, in order of execution: "XnnpackBackend"."""
    operators: tuple[str, ...]
    """Each call of an operator outside of them, in order: "aten::mean.out"."""
    kernels: tuple[tuple[str, bool], ...]
    """Each operator inside of XNNPACK's: its kind, and whether its result is a float."""
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    external: bool
    """Whether tensors lie in another file."""


def matches(data: bytes) -> bool:
    """Whether these are the bytes of a .pte file, of this version or another."""
    return len(data) > 8 and data[4:6] == MAGIC[:2] and data[6:8].isdigit()


def contents(data: bytes, where: str) -> Contents:
    """Read a program.

    Args:
        data: the file.
        where: its name in error messages.

    Raises:
        RuntimeFault: not a .pte file, one of another version, or damaged.
    """
    if matches(data) and data[4:8] != MAGIC:
        raise RuntimeFault(
            f"{where}: a .pte file of format {data[4:8].decode()}, and this edgekit reads {MAGIC.decode()}: "
            "export it again with the ExecuTorch that is to run it"
        )
    try:
        if data[4:8] != MAGIC:
            raise Damaged(f"no {MAGIC.decode()} at its start")
        program = decode(data, _SCHEMA, "program")
        return _contents(program, _segments(data, program))
    except (Damaged, LookupError, struct.error, RecursionError) as error:
        why = str(error) if isinstance(error, Damaged) else "its tables make no sense"
        raise RuntimeFault(f"{where}: not an intact .pte file ({why}); fetch it again") from None


def check(data: bytes, where: str, operators: bool = True) -> None:
    """Refuse a file whose weights or operators lie elsewhere; see `edgekit.runtime.model_file.check`."""
    found = contents(data, where)
    if found.external:
        raise RuntimeFault(
            f"{where}: its weights lie in another file, which no hash or signature covers: export it again, into one"
        )
    for name in found.operators if operators else ():
        if not name.startswith(_KNOWN):
            raise RuntimeFault(
                f"{where}: operator {ascii(name[:80])[1:-1]} is not part of ExecuTorch; export without it"
            )


def _segments(data: bytes, program: dict[str, Any]) -> list[memoryview]:
    """What follows the flatbuffer; an extended header says where."""
    segments = program.get("segments", [])
    base = len(data)
    if data[8:12] == _HEADER:
        length, size, base = struct.unpack_from("<IQQ", data, 12)
        whole = struct.unpack_from("<Q", data, 32)[0] if length >= 32 else 0
        if max(size, base, base + whole if base else 0) > len(data):
            raise Damaged(f"{max(size, base + whole)} bytes are announced, {len(data)} are there")
    ranges = [(base + each.get("offset", 0), each.get("size", 0)) for each in segments]
    if any(start + size > len(data) for start, size in ranges):
        raise Damaged("a segment leads out of the file")
    if any(each.get("segment", 0) >= len(ranges) for each in program.get("named_data", [])):
        raise Damaged("a segment is missing")
    return [memoryview(data)[start : start + size] for start, size in ranges]


def _contents(program: dict[str, Any], segments: list[memoryview]) -> Contents:
    plan = program["plans"][0]
    backends = [_text(each, "id") for each in plan.get("delegates", [])]
    names = [_named(each) for each in plan.get("operators", [])]
    delegates, operators, kernels = [], [], []
    for instruction in (each for chain in plan["chains"] for each in chain.get("instructions", [])):
        call = instruction.get("call", {})
        if instruction.get("kind") == 2:
            number = call.get("delegate", 0)
            delegates.append(backends[number])
            place = plan["delegates"][number].get("processed", {})
            index = place.get("index", 0)
            kernels += _kernels(segments[index] if place.get("location") else program["delegate_data"][index]["data"])
        elif instruction.get("kind") == 1:
            operators.append(names[call.get("operator", 0)])
    values = [each.get("value", {}) for each in plan.get("values", [])]
    external = any(value.get("extra", {}).get("location") == _EXTERNAL for value in values)
    inputs, outputs = ([_tensor(values[place]) for place in _numbers(plan.get(side, b""))] for side in _SIDES)
    return Contents(tuple(delegates), tuple(operators), tuple(kernels), tuple(inputs), tuple(outputs), external)


def _kernels(data: bytes | memoryview) -> list[tuple[str, bool]]:
    """Operators of XNNPACK's own graph; of another delegate, none."""
    if data[4:8] != _XNNPACK_HEADER:
        return []
    start, size, constants, length = struct.unpack_from("<IIIQ", data, 10)
    if max(start + size, constants + length) > len(data):
        raise Damaged("the delegate's graph leads out of the file")
    graph = decode(bytes(data[start : start + size]), _XNNPACK, "graph")
    floats = {}
    for each in graph.get("values", []):
        value = each.get("value", {})
        tensor = value.get("tensor", value)
        floats[tensor.get("id", 0)] = tensor.get("type") in _FLOATS
    found = []
    for node in graph.get("nodes", []):
        kind = node.get("kind", 0)
        output = node.get("operator", {}).get(str(_OUTPUT.get(kind, 2)), 0)
        found.append((_KINDS[kind], floats.get(output, False)))
    return found


def _tensor(value: dict[str, Any]) -> Tensor:
    return Tensor(tuple(_numbers(value.get("sizes", b""))), int(value.get("type", 0)))


def _numbers(data: bytes) -> list[int]:
    return list(struct.unpack(f"<{len(data) // 4}i", data))


def _named(operator: dict[str, Any]) -> str:
    overload = _text(operator, "overload")
    return _text(operator, "name") + (f".{overload}" if overload else "")


def _text(table: dict[str, Any], field: str) -> str:
    return bytes(table.get(field, b"")).decode(errors="replace")
