"""TensorFlow Lite files, read through LiteRT's schema."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from typing import Any

from edgekit.errors import need
from edgekit.inspect import model_graph
from edgekit.inspect.file_report import FileReport, Port
from edgekit.inspect.model_graph import FileGraph, Op, Value

ENGINES: tuple[str, ...] = ("litert", "tflite_runtime", "tensorflow")
WEIGHTED = {"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL", "CONV_3D"}
NOT_COUNTED = {
    "LSTM", "UNIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_LSTM", "RNN", "UNIDIRECTIONAL_SEQUENCE_RNN",
    "BIDIRECTIONAL_SEQUENCE_RNN", "SVDF", "CONV_3D_TRANSPOSE", "STABLEHLO_CONVOLUTION", "STABLEHLO_DOT_GENERAL",
    "IF", "WHILE", "CALL_ONCE", "STABLEHLO_COMPOSITE",
}  # fmt: skip
"""Operators with multiply-adds or nested subgraphs that are not counted."""
INTEGERS = {"int8", "uint8", "int16"}


def matches(data: bytes) -> bool:
    """Whether these are the bytes of a .tflite file."""
    return data[4:8] == b"TFL3"


def inspect(data: bytes, file: str) -> FileReport:
    """Read a file.

    Args:
        data: its bytes.
        file: its name, for the report.

    Raises:
        MissingPackage: LiteRT is not installed.
        Exception: of any kind, if the file is damaged.
    """
    need("ai_edge_litert.schema_py_generated", extra="litert", purpose="reading .tflite files")
    from edgekit.graph.tflite_table import Table

    table = Table(data)
    graph = _read(table, len(data))
    values = graph.values
    floats = tuple(f"{table.kind(op)} {_name(table, op.outputs[0])}" for op in table.float_operators())
    made = {name for op in graph.ops for name in op.outputs if name and not values[name].constant}
    quantized = any(values[name].dtype in INTEGERS and _scaled(table, name) for name in made)
    macs, left = _macs(graph)
    most, at = model_graph.peak(graph)
    by_type = _sizes(table, graph)
    notes = []
    if len(table.model.subgraphs) > 1:
        notes.append(f"{len(table.model.subgraphs)} subgraphs; operators, MACs and memory are of the first only")
    open_inputs = [_name(table, index) for index in table.graph.inputs if _is_open(table.graph.tensors[index])]
    if open_inputs:
        notes.append(f"open dimensions are counted as 1: {', '.join(open_inputs)}")
    return FileReport(
        file=file,
        format="tflite",
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        versions={"schema": int(table.model.version)},
        inputs=tuple(_port(table, index) for index in table.graph.inputs),
        outputs=tuple(_port(table, index) for index in table.graph.outputs),
        ops=graph.histogram(),
        quantized=quantized,
        float_ops=floats,
        macs=macs,
        not_counted=left,
        parameters=model_graph.parameters(graph, WEIGHTED, {}),
        bytes_by_type={**by_type, "other": len(data) - sum(by_type.values())},
        peak_bytes=most,
        peak_at=at,
        metadata=_metadata(table),
        notes=tuple(notes),
    )


def _read(table: Any, length: int) -> FileGraph:
    """The first subgraph. Everything in it is validated here, since the generated reader validates nothing."""
    graph, model = table.graph, table.model
    values = {}
    for index, tensor in enumerate(graph.tensors):
        dtype = _dtype(table, tensor)
        if not 0 <= tensor.buffer < len(model.buffers):
            raise ValueError(f"tensor {index} refers to buffer {tensor.buffer}, which does not exist")
        held = _held(model.buffers[tensor.buffer], length)
        value = Value(_shape(tensor), dtype, constant=held > 0)
        if held and tensor.sparsity is None and dtype in model_graph.BITS and held != value.bytes:
            raise ValueError(f"tensor {index} holds {held} bytes, but its shape needs {value.bytes}")
        values[str(index)] = value
    ops = []
    for operator in graph.operators:
        if not 0 <= operator.opcodeIndex < len(model.operatorCodes):
            raise ValueError(f"operator code {operator.opcodeIndex} does not exist")
        inputs = _indices(operator.inputs, values)
        outputs = _indices(operator.outputs, values)
        name = _name(table, int(outputs[0])) if outputs and outputs[0] else ""
        ops.append(Op(table.kind(operator), name, inputs, outputs))
    sources, sinks = _indices(graph.inputs, values), _indices(graph.outputs, values)
    if "" in (*sources, *sinks) or not sinks:
        raise ValueError("inputs or outputs are missing")
    state = [str(index) for index, tensor in enumerate(graph.tensors) if tensor.isVariable]
    return FileGraph(tuple(ops), values, sources, sinks, state)


def _indices(indices: Any, values: dict[str, Value]) -> tuple[str, ...]:
    names = tuple("" if index == -1 else str(index) for index in (() if indices is None else indices))
    if unknown := [name for name in names if name and name not in values]:
        raise ValueError(f"tensor {unknown[0]} does not exist")
    return names


def _shape(tensor: Any) -> tuple[int, ...]:
    shape = tuple(int(extent) for extent in (() if tensor.shape is None else tensor.shape))
    if min(shape, default=0) < 0 or math.prod(shape) > 2**40:
        raise ValueError(f"a tensor has an invalid shape: {shape}")
    return shape


def _dtype(table: Any, tensor: Any) -> str:
    return str(table.types[tensor.type]).lower()


def _is_open(tensor: Any) -> bool:
    return tensor.shapeSignature is not None and min(tensor.shapeSignature, default=0) < 0


def _held(buffer: Any, length: int) -> int:
    """Size of a buffer; in files above 2 GiB, buffers follow the flatbuffer."""
    if buffer.data is not None:
        return len(buffer.data)
    if buffer.offset > 1:
        if buffer.offset + buffer.size > length:
            raise ValueError("a buffer lies outside the file")
        return int(buffer.size)
    return 0


def _name(table: Any, index: int) -> str:
    name = table.graph.tensors[index].name
    return name.decode(errors="replace") if name else ""


def _scaled(table: Any, name: str) -> bool:
    grid = table.graph.tensors[int(name)].quantization
    return grid is not None and grid.scale is not None and len(grid.scale) > 0


def _port(table: Any, index: int) -> Port:
    tensor = table.graph.tensors[index]
    grid = tensor.quantization if _scaled(table, str(index)) else None
    zero = int(grid.zeroPoint[0]) if grid is not None and grid.zeroPoint is not None else 0
    scale = None if grid is None else float(grid.scale[0])
    return Port(_name(table, index), _shape(tensor), _dtype(table, tensor), scale, None if grid is None else zero)


def _macs(graph: FileGraph) -> tuple[int, dict[str, int]]:
    total, left = 0, Counter[str]()
    for op in graph.ops:
        if op.kind in NOT_COUNTED or op.kind.startswith(("CUSTOM", "BUILTIN_")):
            left[op.kind] += 1
        elif op.kind in WEIGHTED:
            total += _products(op, graph)
    return total, dict(left)


def _products(op: Op, graph: FileGraph) -> int:
    """Multiply-adds, based on the weight layouts in TFLite's documentation."""
    if "" in (*op.inputs[:2], *op.outputs[:1]):
        raise ValueError(f"{op.kind} {op.name} lacks an input or its output")
    shapes = [graph.values[name].shape or () if name else () for name in op.inputs]
    out = graph.values[op.outputs[0]].elements
    if op.kind == "CONV_2D":  # OHWI, I of one group
        return out * math.prod(shapes[1][1:])
    if op.kind == "DEPTHWISE_CONV_2D":  # 1HWO
        return out * math.prod(shapes[1][1:3])
    if op.kind == "CONV_3D":  # DHWIO
        return out * math.prod(shapes[1][:4])
    if op.kind == "TRANSPOSE_CONV":  # inputs are: shape of the output, weights OHWI, image
        return math.prod(shapes[2]) * math.prod(shapes[1][:3])
    if op.kind == "FULLY_CONNECTED":  # OI
        return out * shapes[1][-1]
    rows = (graph.values[op.outputs[0]].shape or ())[-2]  # BATCH_MATMUL; either side may be transposed
    return out * math.prod(shapes[0][-2:]) // max(rows, 1)


def _sizes(table: Any, graph: FileGraph) -> dict[str, int]:
    """Bytes by type; a buffer shared by several tensors counts once."""
    owners = {tensor.buffer: str(index) for index, tensor in reversed(list(enumerate(table.graph.tensors)))}
    sizes: Counter[str] = Counter()
    for buffer, name in owners.items():
        if graph.values[name].constant:
            sizes[graph.values[name].dtype] += _held(table.model.buffers[buffer], 2**63)
    return dict(sorted(sizes.items(), key=lambda item: (-item[1], item[0])))


def _metadata(table: Any) -> dict[str, str]:
    texts = {"description": table.model.description.decode(errors="replace")} if table.model.description else {}
    for entry in table.model.metadata or ():
        name = entry.name.decode(errors="replace") if entry.name else ""
        if not 0 <= entry.buffer < len(table.model.buffers):
            raise ValueError(f"metadata {name} refers to buffer {entry.buffer}, which does not exist")
        held = table.model.buffers[entry.buffer].data
        texts[name] = _readable(b"" if held is None else bytes(bytearray(held)))
    return texts


def _readable(data: bytes) -> str:
    words = data.rstrip(b"\0")
    try:
        line = words.decode()
    except UnicodeDecodeError:
        return f"{len(data)} bytes"
    return line if line.isprintable() else f"{len(data)} bytes"
