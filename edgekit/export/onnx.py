"""ONNX, through torch's exporter: float graphs as they are, quantized graphs as Q/DQ pairs that engines fuse.

int8 weights are stored as int8; activations become uint8 (same values) because that is what x86 kernels take.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
import torch
from torch.fx import GraphModule

from edgekit.errors import Shortfall
from edgekit.export import _chatter
from edgekit.lower import conv_padding, global_average_pool, uint8_activations
from edgekit.quantize._graph import fold_weights
from edgekit.types import Artifact, TensorSpec

OPSET = 20
REWRITES = (conv_padding, global_average_pool, uint8_activations)
MOVING = {"Reshape", "Flatten", "Transpose", "Identity", "Squeeze", "Unsqueeze", "Shape", "Gather", "Concat", "Slice"}
"""Operators that move values and compute nothing."""
INTEGER = {
    "Add",
    "AveragePool",
    "Concat",
    "Conv",
    "Gemm",
    "GlobalAveragePool",
    "MatMul",
    "MaxPool",
    "Mul",
    "Pad",
    "Sigmoid",
}
"""Operators that ONNX Runtime computes in integers between a DequantizeLinear and a QuantizeLinear."""
FUSED = {"Clip", "Relu"}
"""Activations an integer kernel absorbs when they stand between it and its QuantizeLinear."""


def export(graph: torch.nn.Module, size: int, precision: str, folder: Path) -> Artifact:
    """Write ``model-<precision>.onnx``.

    Args:
        graph: a float network in eval mode, or a quantized graph whose weights are quantized in the graph.
        size: side of the square input; the file takes float32 (1, 3, size, size), NCHW.
        precision: "fp32" or "int8".
        folder: where to write.

    Raises:
        Shortfall: the exporter or the ONNX checker refuses the network.
    """
    name = f"model-{precision}.onnx"
    example = torch.zeros(1, 3, size, size)
    try:
        with _chatter.into(folder / "export.log"), torch.no_grad():
            source = fold_weights(graph) if isinstance(graph, GraphModule) else graph
            program = torch.onnx.export(
                source, (example,), dynamo=True, opset_version=OPSET, input_names=["input"], output_names=["logits"]
            )
            assert program is not None
            model = program.model_proto
            _strip(model)
            lowered = [rewrite.NAME for rewrite in REWRITES if rewrite.apply(model)]
            onnx.checker.check_model(model, full_check=True)
    except (OSError, ModuleNotFoundError):
        raise
    except Exception as error:  # the exporter raises whatever an operator's translation raised
        raise Shortfall(f"onnx-{precision}: torch cannot export this network: {_first(error)}") from error
    data = model.SerializeToString(deterministic=True)
    (folder / name).write_bytes(data)
    floats = float_ops(model)
    classes = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    return Artifact(
        id=f"onnx-{precision}",
        format="onnx",
        precision=precision,
        path=name,
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        float_ops=len(floats),
        float_op_names=floats if precision == "int8" else (),
        input=TensorSpec("input", (1, 3, size, size), "float32", "NCHW"),
        output=TensorSpec("logits", (1, classes), "float32", "NC"),
        lowered=tuple(lowered),
    )


def float_ops(model: onnx.ModelProto) -> tuple[str, ...]:
    """Operators that an engine has to compute in float: not between DequantizeLinear and QuantizeLinear.

    A clamp counts as part of the operator before it.
    """
    graph = model.graph
    producer = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name: tensor.data_type for tensor in graph.initializer}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)

    def starts_dequantized(name: str) -> bool:
        source = producer.get(name)
        if source is None:
            return bool(constants.get(name, onnx.TensorProto.FLOAT) != onnx.TensorProto.FLOAT)
        kind: str = source.op_type
        return starts_dequantized(source.input[0]) if kind in MOVING | FUSED else kind == "DequantizeLinear"

    def ends_quantized(name: str) -> bool:
        following = users.get(name, [])
        return bool(following) and all(
            user.op_type == "QuantizeLinear" or (user.op_type in MOVING | FUSED and ends_quantized(user.output[0]))
            for user in following
        )

    found = []
    for node in graph.node:
        if node.op_type in MOVING or node.op_type in ("QuantizeLinear", "DequantizeLinear", "Constant"):
            continue
        source = producer.get(node.input[0])
        if node.op_type in FUSED and source is not None and source.op_type not in ("DequantizeLinear", *MOVING):
            continue
        operands = node.input[:2]  # the third is a bias, which may be float
        integer = node.op_type in INTEGER and all(starts_dequantized(name) for name in operands)
        if not (integer and ends_quantized(node.output[0])):
            found.append(f"{node.op_type} {node.name}")
    return tuple(found)


def _strip(model: onnx.ModelProto) -> None:
    """Drop what would differ between two machines: source paths, stack traces, the producer's version."""
    model.producer_name, model.producer_version, model.doc_string = "edgekit", "", ""
    model.graph.doc_string = ""
    del model.metadata_props[:]
    model.graph.name = "edgekit"
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
        scopes = [prop for prop in node.metadata_props if prop.key == "pkg.torch.onnx.name_scopes"]
        del node.metadata_props[:]
        node.metadata_props.extend(scopes)


def _first(error: BaseException) -> str:
    """First line of the innermost cause that says something."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]
