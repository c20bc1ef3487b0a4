"""A .tflite flatbuffer, read through LiteRT's generated schema. No torch here: `edgekit inspect` uses it too."""

from __future__ import annotations

from typing import Any

from edgekit.types import TensorSpec

MOVING = {
    "BROADCAST_TO",
    "CONCATENATION",
    "DEPTH_TO_SPACE",
    "EXPAND_DIMS",
    "GATHER",
    "PACK",
    "PAD",
    "PADV2",
    "RESHAPE",
    "RESIZE_NEAREST_NEIGHBOR",
    "REVERSE_V2",
    "SLICE",
    "SPACE_TO_DEPTH",
    "SPLIT",
    "SPLIT_V",
    "SQUEEZE",
    "STRIDED_SLICE",
    "TILE",
    "TRANSPOSE",
    "UNPACK",
}
BORDER = {"QUANTIZE", "DEQUANTIZE"}


class Table:
    """The first subgraph of a .tflite file.

    Args:
        data: the file's bytes.
    """

    def __init__(self, data: bytes) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.schema: Any = schema
        self.model: Any = schema.ModelT.InitFromPackedBuf(data, 0)
        self.graph: Any = self.model.subgraphs[0]
        self.operators = _names(schema.BuiltinOperator)
        self.types = _names(schema.TensorType)

    def kind(self, operator: Any) -> str:
        """Name of an operator's type in the schema, or a custom operator's own name."""
        code = self.model.operatorCodes[operator.opcodeIndex]
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        if number == self.schema.BuiltinOperator.CUSTOM and code.customCode:
            return f"CUSTOM {code.customCode.decode(errors='replace')}"
        return self.operators.get(number, f"BUILTIN_{number}")  # from a newer schema

    def float_operators(self) -> list[Any]:
        """Operators that compute in float, judged by the type of their first output."""
        return [
            operator
            for operator in self.graph.operators
            if self.types[self.graph.tensors[operator.outputs[0]].type] in ("FLOAT32", "FLOAT16")
            and self.kind(operator) not in MOVING | BORDER
        ]

    def float_ops(self) -> tuple[str, ...]:
        """The same operators, each as "TYPE output-tensor"."""
        return tuple(
            f"{self.kind(operator)} {self.graph.tensors[operator.outputs[0]].name.decode()}"
            for operator in self.float_operators()
        )

    def port(self, index: int, layout: Any) -> TensorSpec:
        """Name, shape, type and grid of the tensor with this index."""
        tensor = self.graph.tensors[index]
        grid = tensor.quantization
        quantized = grid is not None and grid.scale is not None
        return TensorSpec(
            name=tensor.name.decode(),
            shape=tuple(int(extent) for extent in tensor.shape),
            dtype=self.types[tensor.type].lower(),
            layout=layout,
            scale=float(grid.scale[0]) if quantized else None,
            zero_point=int(grid.zeroPoint[0]) if quantized else None,
        )


def _names(constants: Any) -> dict[int, str]:
    return {value: name for name, value in vars(constants).items() if isinstance(value, int)}
