"""A PAD before a convolution becomes the convolution's SAME padding, and the transposes around it are removed.

Helps LiteRT: MobileNetV2 with TensorFlow's SAME padding, traced by torch, has five PADs between ten TRANSPOSEs. The
flatbuffer is edited in place, so that nothing else in the file moves.
"""

from __future__ import annotations

import struct
from typing import Any

NAME = "same_padding"
SCOPE = "tflite"
SAME, VALID = 0, 1


def apply(data: bytearray) -> int:
    """Rewrite every zero PAD that equals its convolution's SAME padding, in place; returns how many."""
    from ai_edge_litert import schema_py_generated as schema

    file = _File(data, schema)
    count = 0
    for place in range(file.graph.OperatorsLength()):
        operator = file.graph.Operators(place)
        if file.kind(operator) in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            chain = file.chain(operator)
            if chain is not None and file.is_same(operator, chain):
                file.set_padding(operator, SAME)
                file.set_input(operator, file.source(chain))
                file.dead.update(file.index[int(each.Outputs(0))] for each in chain)
                count += 1
    file.drop_dead()
    return count


class _File:
    """One .tflite flatbuffer with the positions needed to change it."""

    def __init__(self, data: bytearray, schema: Any) -> None:
        self.data = data
        self.schema = schema
        self.model = schema.Model.GetRootAsModel(data, 0)
        self.graph = self.model.Subgraphs(0)
        self.names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
        operators = [self.graph.Operators(place) for place in range(self.graph.OperatorsLength())]
        self.index = {int(each.Outputs(0)): place for place, each in enumerate(operators)}
        self.users: dict[int, int] = {}
        for each in operators:
            for tensor in each.InputsAsNumpy():
                self.users[int(tensor)] = self.users.get(int(tensor), 0) + 1
        for tensor in self.graph.OutputsAsNumpy():
            self.users[int(tensor)] = self.users.get(int(tensor), 0) + 1
        self.dead: set[int] = set()

    def kind(self, operator: Any) -> str:
        code = self.model.OperatorCodes(operator.OpcodeIndex())
        return str(self.names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())])

    def chain(self, convolution: Any) -> list[Any] | None:
        """[PAD] or [TRANSPOSE, PAD, TRANSPOSE] before a VALID convolution, if nothing else uses them."""
        if self.options(convolution).Padding() != VALID:
            return None
        chain: list[Any] = []
        tensor = int(convolution.Inputs(0))
        for wanted in (("PAD", "TRANSPOSE"), ("PAD",), ("TRANSPOSE",)):
            before = self.index.get(tensor)
            if before is None or self.users[tensor] != 1 or self.kind(self.graph.Operators(before)) not in wanted:
                return None
            chain.insert(0, self.graph.Operators(before))
            tensor = int(chain[0].Inputs(0))
            if len(chain) == 1 and self.kind(chain[0]) == "PAD":
                return chain
        first, last = (self.constant(int(chain[place].Inputs(1))) for place in (0, 2))
        return chain if [first[axis] for axis in last] == [0, 1, 2, 3] else None

    def is_same(self, convolution: Any, chain: list[Any]) -> bool:
        """Whether the PAD adds what SAME would: the larger half at the end (TensorFlow's definition)."""
        options = self.options(convolution)
        pads = self.constant(int(chain[len(chain) // 2].Inputs(1)))
        pairs = [tuple(pads[place : place + 2]) for place in range(0, 8, 2)]
        if len(chain) == 3:
            pairs = [pairs[axis] for axis in self.constant(int(chain[2].Inputs(1)))]
        _, height, width, _ = self.shape(self.source(chain))
        _, rows, columns, _ = self.shape(int(convolution.Inputs(1)))
        wanted = [(0, 0), (0, 0), (0, 0), (0, 0)]
        for axis, size, kernel, stride, dilation in (
            (1, height, rows, options.StrideH(), options.DilationHFactor()),
            (2, width, columns, options.StrideW(), options.DilationWFactor()),
        ):
            total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
            wanted[axis] = (total // 2, total - total // 2)
        return pairs == wanted

    def source(self, chain: list[Any]) -> int:
        return int(chain[0].Inputs(0))

    def options(self, convolution: Any) -> Any:
        depthwise = self.kind(convolution) == "DEPTHWISE_CONV_2D"
        options = (self.schema.DepthwiseConv2DOptions if depthwise else self.schema.Conv2DOptions)()
        table = convolution.BuiltinOptions()
        options.Init(table.Bytes, table.Pos)
        return options

    def shape(self, tensor: int) -> list[int]:
        return [int(extent) for extent in self.graph.Tensors(tensor).ShapeAsNumpy()]

    def constant(self, tensor: int) -> list[int]:
        data = self.model.Buffers(self.graph.Tensors(tensor).Buffer()).DataAsNumpy()
        wide = self.graph.Tensors(tensor).Type() == self.schema.TensorType.INT64
        return [int(number) for number in data.view("<i8" if wide else "<i4")]

    def set_padding(self, convolution: Any, padding: int) -> None:
        table = self.options(convolution)._tab
        self.data[table.Pos + table.Offset(4)] = padding  # VALID is not the default, so the field exists

    def set_input(self, operator: Any, tensor: int) -> None:
        table = operator._tab
        struct.pack_into("<i", self.data, table.Vector(table.Offset(6)), tensor)

    def drop_dead(self) -> None:
        """Shorten the vector of operators; each entry is an offset from its own position."""
        table = self.graph._tab
        start = table.Vector(table.Offset(10))
        count = self.graph.OperatorsLength()
        targets = [start + 4 * n + struct.unpack_from("<I", self.data, start + 4 * n)[0] for n in range(count)]
        kept = [target for place, target in enumerate(targets) if place not in self.dead]
        struct.pack_into("<I", self.data, start - 4, len(kept))
        for place, target in enumerate(kept):
            struct.pack_into("<I", self.data, start + 4 * place, target - (start + 4 * place))
        self.shrink({output for output, place in self.index.items() if place in self.dead})

    def shrink(self, tensors: set[int]) -> None:
        """Shrink tensors to one element: TensorFlow Lite for Microcontrollers allocates unused ones, too."""
        extents = {number: self.extents(number) for number in range(self.graph.TensorsLength())}
        needed = {start for number, (start, _) in extents.items() if number not in tensors}
        for start, count in (extents[number] for number in tensors):
            if start not in needed:
                struct.pack_into(f"<{count}i", self.data, start, *[1] * count)

    def extents(self, tensor: int) -> tuple[int, int]:
        """Where a tensor's shape is, and how many numbers it has."""
        table = self.graph.Tensors(tensor)._tab
        field = table.Offset(4)
        return (table.Vector(field), table.VectorLen(field)) if field else (-1 - tensor, 0)
