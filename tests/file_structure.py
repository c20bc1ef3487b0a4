"""What two files of a network have to have in common to run the same kernels."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from edgekit.graph.tflite_table import Table


def structure(path: Path) -> list[Any]:
    """Each operator with its attributes and, for what it reads and makes, type and shape; small integers as such."""
    return list(_onnx_structure(path) if path.suffix == ".onnx" else _tflite_structure(path))


def _onnx_structure(path: Path) -> Iterator[Any]:
    written = onnx.load(path)
    onnx.checker.check_model(written, full_check=True)
    bare = copy.deepcopy(written)
    del bare.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(bare, strict_mode=True, data_prop=True).graph
    values = {value.name: value.type for value in (*inferred.value_info, *inferred.input, *inferred.output)}
    for value in written.graph.value_info:  # rewrites leave some of nodes that they removed
        assert value.type == values.get(value.name, value.type), value.name
    constants = {tensor.name: tensor for tensor in written.graph.initializer}

    def spec(name: str) -> Any:
        if name in constants:
            tensor = constants[name]
            numbers = numpy_helper.to_array(tensor).tolist() if tensor.data_type == onnx.TensorProto.INT64 else ()
            return tensor.data_type, list(tensor.dims), numbers
        return str(values[name]) if name else ""

    for node in written.graph.node:
        attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        yield node.op_type, [spec(name) for name in node.input], [spec(name) for name in node.output], attributes


def _tflite_structure(path: Path) -> Iterator[Any]:
    table = Table(path.read_bytes())

    def spec(tensor: int) -> Any:
        if tensor < 0:
            return None
        entry = table.graph.tensors[tensor]
        data, grid = table.model.buffers[entry.buffer].data, entry.quantization
        scales = 0 if grid is None or grid.scale is None else len(grid.scale)
        indices = table.types[entry.type] == "INT32" and not scales and data is not None
        numbers = np.frombuffer(bytes(data), "<i4").tolist() if indices else ()
        return table.types[entry.type], [int(extent) for extent in entry.shape], scales, data is None, numbers

    for operator in table.graph.operators:
        given = vars(operator.builtinOptions) if operator.builtinOptions else {}
        options = {key: list(value) if isinstance(value, np.ndarray) else value for key, value in given.items()}
        yield (
            table.kind(operator),
            [spec(int(tensor)) for tensor in operator.inputs],
            [spec(int(tensor)) for tensor in operator.outputs],
            options,
        )


def names(path: Path) -> list[str]:
    """Operators, named after their layers."""
    if path.suffix == ".onnx":
        return [node.name for node in onnx.load(path).graph.node if "/" in node.name]
    table = Table(path.read_bytes())
    return [table.graph.tensors[operator.outputs[0]].name.decode() for operator in table.graph.operators]
