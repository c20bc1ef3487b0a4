"""ONNX files."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections import Counter
from typing import Any

from edgekit.errors import need
from edgekit.inspect import model_graph
from edgekit.inspect.file_report import FileReport, Port
from edgekit.inspect.model_graph import FileGraph, Op, Value

ENGINES: tuple[str, ...] = ("onnxruntime",)
Q, DQ = "QuantizeLinear", "DequantizeLinear"
PRODUCTS = {
    "Conv": 1, "FusedConv": 1, "ConvInteger": 1, "QLinearConv": 3, "ConvTranspose": 1,
    "Gemm": 1, "QGemm": 3, "MatMul": 1, "FusedMatMul": 1, "MatMulInteger": 1, "DynamicQuantizeMatMul": 1,
    "MatMulIntegerToFloat": 1, "QLinearMatMul": 3,
}  # fmt: skip
"""Operators with multiply-adds, and which of their inputs is the weight (the second matrix)."""
NOT_COUNTED = {
    "LSTM", "GRU", "RNN", "Einsum", "Attention", "MultiHeadAttention", "GroupQueryAttention", "DeformConv", "If",
    "Loop", "Scan", "MatMulNBits",
}  # fmt: skip
"""Operators with multiply-adds or nested graphs that are not counted."""
SCALES = {Q: (1, 2), DQ: (1, 2), "Resize": (1, 2, 3), "ConvInteger": (2, 3), "MatMulInteger": (2, 3),
          "DynamicQuantizeMatMul": (2, 3), "MatMulIntegerToFloat": (2, 3, 4, 5), "QLinearConv": (1, 2, 4, 5, 6, 7),
          "QLinearMatMul": (1, 2, 4, 5, 6, 7), "QGemm": (1, 2, 4, 5, 7, 8), "QLinearAdd": (1, 2, 4, 5, 6, 7),
          "QLinearMul": (1, 2, 4, 5, 6, 7)}  # fmt: skip
"""Positions of the inputs that are scales and zero points (Resize: sizes)."""
KNOWN = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
FIRST = b"\x08\x12\x3a\x42"
"""Possible first bytes of a model, one per field: ir_version, producer_name, graph, metadata (onnx.proto3)."""


def matches(data: bytes) -> bool:
    """Whether these may be the bytes of an .onnx file; protocol buffers have no magic number."""
    return data[:1] != b"" and data[:1] in FIRST


def inspect(data: bytes, file: str) -> FileReport:
    """Read a file.

    Args:
        data: its bytes.
        file: its name, for the report.

    Raises:
        MissingPackage: onnx is not installed.
        Exception: of any kind, if the file is damaged.
    """
    need("onnx", extra="compress", purpose="reading .onnx files")
    import onnx

    from edgekit.graph import onnx_floats

    model = onnx.load_model_from_string(data)
    if not (model.ir_version and model.graph.node and model.graph.output and model.opset_import):
        raise ValueError("graph, outputs or opset are missing")
    if model.functions:
        import onnx.inliner

        model = onnx.inliner.inline_local_functions(model)
    notes = _close(model)
    versions = {"ir": int(model.ir_version)}
    versions |= {f"opset {entry.domain or 'ai.onnx'}": int(entry.version) for entry in model.opset_import}
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    graph, constants = _read(inferred.graph)
    quantized = any(op.kind.startswith((Q, "DynamicQuantize", "QLinear", "QGemm")) for op in graph.ops)
    floats = [
        node
        for node in onnx_floats.float_nodes(inferred.graph)
        if _is_float(graph.values.get(node.output[0])) and not node.op_type.startswith(("QLinear", "QGemm"))
    ]
    in_float = {node.output[0] for node in floats}
    macs, left, unknown = _macs(graph)
    if unknown:
        notes.append(f"MACs and memory exclude operators with unknown shapes: {', '.join(unknown[:5])}")
    most, at = model_graph.peak(_fused(graph, in_float))
    by_type = model_graph.sizes(graph.values.values())
    other = len(data) - sum(by_type.values())
    return FileReport(
        file=file,
        format="onnx",
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        versions=versions,
        inputs=tuple(_port(graph, constants, name) for name in graph.inputs),
        outputs=tuple(_port(graph, constants, name) for name in graph.outputs),
        ops=graph.histogram(),
        quantized=quantized,
        float_ops=tuple(f"{node.op_type} {node.name}".strip() for node in floats),
        macs=macs,
        not_counted=left,
        parameters=model_graph.parameters(graph, PRODUCTS, SCALES),
        bytes_by_type={**by_type, "other": other},
        peak_bytes=most,
        peak_at=at,
        metadata=_metadata(model),
        notes=tuple(notes),
    )


def _close(model: Any) -> list[str]:
    """Set open dimensions of the inputs to 1, and discard the shapes that depended on them."""
    stored = {tensor.name for tensor in model.graph.initializer}
    open_inputs = []
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        free = [dim for dim in dims if not dim.HasField("dim_value") or dim.dim_value <= 0]
        if free and value.name not in stored:
            open_inputs.append(f"{value.name} ({', '.join(dim.dim_param or '?' for dim in free)})")
        for dim in free:
            dim.dim_value = 1
    if not open_inputs:
        return []
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return [f"open dimensions are counted as 1: {', '.join(open_inputs)}"]


def _read(graph: Any) -> tuple[FileGraph, dict[str, Any]]:
    """The graph after shape inference, and its constants (TensorProto by name)."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    constants |= {sparse.values.name: sparse.values for sparse in graph.sparse_initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.output:
            held = [entry.t for entry in node.attribute if entry.name == "value"]
            constants |= dict.fromkeys(node.output[:1], held[0]) if held else {}
    values = {}
    for value in (*graph.value_info, *graph.output, *graph.input):
        kind = value.type.tensor_type
        sized = kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim)
        shape = tuple(int(dim.dim_value) for dim in kind.shape.dim) if sized else None
        values[value.name] = Value(_sane(shape), _dtype(kind.elem_type))
    for name, tensor in constants.items():
        values[name] = Value(_sane(tuple(tensor.dims)), _dtype(tensor.data_type), constant=True)
    ops = tuple(
        Op(node.op_type, node.name, tuple(node.input), tuple(node.output))
        if node.domain in KNOWN
        else Op(f"{node.domain}.{node.op_type}", node.name, tuple(node.input), tuple(node.output))
        for node in graph.node
    )
    inputs = tuple(value.name for value in graph.input if value.name not in constants)
    made = {name for op in ops for name in op.outputs} | set(values)
    if lost := [name for op in ops for name in op.inputs if name and name not in made]:
        raise ValueError(f'no operator produces "{lost[0]}"')
    return FileGraph(ops, values, inputs, tuple(value.name for value in graph.output)), constants


def _sane(shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if shape is not None and (min(shape, default=0) < 0 or math.prod(shape) > 2**40):
        raise ValueError(f"a tensor has an invalid shape: {shape}")
    return shape


def _dtype(number: int) -> str:
    import onnx

    names = {"float": "float32", "double": "float64"}
    try:
        word = onnx.TensorProto.DataType.Name(number).lower()
    except ValueError as error:
        raise ValueError(f"unknown data type {number}") from error
    return "float8" if word.startswith("float8") else names.get(word, word)


def _is_float(value: Value | None) -> bool:
    return value is None or "float" in value.dtype


def _macs(graph: FileGraph) -> tuple[int, dict[str, int], list[str]]:
    total, left, unknown = 0, Counter[str](), []
    for op in graph.ops:
        if op.kind in NOT_COUNTED or "." in op.kind:
            left[op.kind] += 1
        elif op.kind in PRODUCTS:
            first, weight, out = (
                graph.values[name].shape if name in graph.values else None
                for name in (op.inputs[0], op.inputs[PRODUCTS[op.kind]], op.outputs[0])
            )
            if first is None or weight is None or out is None:
                unknown.append(f"{op.kind} {op.name}".strip())
            elif "Transpose" in op.kind:  # IO…: each input value is multiplied with all of it but I
                total += math.prod(first) * math.prod(weight[1:])
            elif "Conv" in op.kind:  # OI…, I of one group
                total += math.prod(out) * math.prod(weight[1:])
            elif "Gemm" in op.kind:  # either side may be transposed; the rows of the output are the first one's
                total += math.prod(out) * (math.prod(first) // max(out[0], 1))
            else:
                total += math.prod(out) * first[-1]
    return total, dict(left), unknown


def _fused(graph: FileGraph, in_float: set[str]) -> FileGraph:
    """The graph as engines compute it: between DequantizeLinear and QuantizeLinear, operators work on integers.

    Args:
        graph: the graph of the file.
        in_float: first outputs of the operators that compute in float.
    """
    from edgekit.graph.onnx_floats import FUSED, MOVING

    maker = {name: op for op in graph.ops for name in op.outputs}
    users: dict[str, list[Op]] = {}
    for op in graph.ops:
        for name in op.inputs:
            users.setdefault(name, []).append(op)

    @functools.cache
    def starts(name: str) -> bool:
        source = maker.get(name)
        if source is None or source.kind == Q:
            return False
        if source.kind in MOVING | FUSED:
            return starts(source.inputs[0])
        return source.kind == DQ or source.outputs[0] not in in_float

    @functools.cache
    def ends(name: str) -> bool:
        return bool(users.get(name)) and all(
            user.kind == Q or (user.kind in MOVING | FUSED and ends(user.outputs[0])) for user in users[name]
        )

    def integer(op: Op) -> bool:
        name = op.outputs[0]
        if op.kind in (Q, DQ) or name in in_float or not _is_float(graph.values.get(name)):
            return False
        return op.kind not in MOVING | FUSED or (starts(op.inputs[0]) and ends(name))

    before = {op.outputs[0]: op.inputs[0] for op in graph.ops if op.kind == DQ}
    after: dict[str, str] = {}
    gone: set[str] = set()
    ops, values = [], dict(graph.values)
    for op in graph.ops:
        if op.outputs[0] in gone:
            continue
        if op.kind == DQ and op.outputs[0] not in graph.outputs and users.get(op.outputs[0]):
            if all(integer(user) for user in users[op.outputs[0]]):
                continue
        elif integer(op):
            name = op.outputs[0]
            while [user.kind in FUSED and integer(user) for user in users.get(name, [])] == [True]:
                name = users[name][0].outputs[0]
                gone.add(name)
            if any(user.kind == Q for user in users.get(name, [])):
                last = next(user.outputs[0] for user in users[name] if user.kind == Q)
                gone.add(last)
                name = last
            elif name in values and not values[name].constant and op.outputs[0] not in graph.outputs:
                values[name] = dataclasses.replace(values[name], dtype="int8")  # moved before it is quantized
            after[op.outputs[0]] = name
            inputs = tuple(before.get(each, each) for each in op.inputs)
            op = dataclasses.replace(op, inputs=inputs, outputs=(name, *op.outputs[1:]))
        ops.append(op)
    return dataclasses.replace(graph, ops=tuple(ops), values=values)


def _port(graph: FileGraph, constants: dict[str, Any], name: str) -> Port:
    """A port; the scale of an integer one is found in the DequantizeLinear or QuantizeLinear next to it."""
    from onnx import numpy_helper

    value = graph.values.get(name, Value(None, "undefined"))
    beside = [
        op for op in graph.ops if (op.kind == DQ and name in op.inputs[:1]) or (op.kind == Q and name in op.outputs)
    ]
    scale = zero = None
    if beside and beside[0].inputs[1] in constants:
        scales = numpy_helper.to_array(constants[beside[0].inputs[1]])
        if scales.size == 1:
            stored = constants.get(beside[0].inputs[2]) if len(beside[0].inputs) > 2 else None
            scale, zero = float(scales.item()), 0 if stored is None else int(numpy_helper.to_array(stored).item())
    return Port(name, value.shape or (), value.dtype, scale, zero)


def _metadata(model: Any) -> dict[str, str]:
    producer = f"{model.producer_name} {model.producer_version}".strip()
    texts = {"producer": producer, "description": model.doc_string, "domain": model.domain}
    return {key: text for key, text in texts.items() if text} | {prop.key: prop.value for prop in model.metadata_props}
