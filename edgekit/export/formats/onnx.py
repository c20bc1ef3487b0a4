"""ONNX, through torch's exporter: float graphs unchanged, quantized graphs as Q/DQ pairs that engines fuse.

int8 weights are stored as int8; activations become uint8 (same values) because that is what x86 kernels take.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch.fx import GraphModule

from edgekit.errors import Shortfall
from edgekit.export import chatter, float_operators, layer_names, model_file, onnx_weights
from edgekit.export.port import Rewrites
from edgekit.graph import onnx_floats
from edgekit.graph.exported_program import fold_weights
from edgekit.lower.port import OnnxRewrite
from edgekit.lower.rewrites import (
    byte_clip,
    conv_padding,
    four_channels,
    global_average_pool,
    sixteen_channels,
    uint8_activations,
)
from edgekit.types import FLOAT_VARIANTS, Artifact, Size, TensorSpec, shape_of

OPSET = 20
REWRITES: tuple[OnnxRewrite, ...] = (
    conv_padding,
    global_average_pool,
    four_channels,
    byte_clip,
    sixteen_channels,
    uint8_activations,
)
ON_BYTES: tuple[OnnxRewrite, ...] = (four_channels, byte_clip, uint8_activations)
"""Those that leave uint8, or operators on the bytes themselves. A file whose zero points are all 0 is for engines that
take neither (TensorRT, CoreML), so it stays without."""
REFUSED = {"int16x8": "ONNX Runtime has no integer kernels for int16 activations; int16x8 is a precision of tflite"}
"""Precisions that this format does not support, and why."""


def export(
    graph: torch.nn.Module,
    size: Size,
    precision: str,
    folder: Path,
    rewrites: Rewrites = None,
    keep_float: Sequence[str] | None = (),
) -> Artifact:
    """Write ``model-<precision>.onnx``.

    Args:
        graph: "fp32": a float network in eval mode; "int8": a quantized graph whose weights are quantized in the
            graph; others: the result of `edgekit.export.sources.rounded`.
        size: shape of an image; the file takes float32, NCHW.
        precision: a word of ``export.precisions`` other than "int16x8".
        folder: where to write.
        rewrites: names of the rewrites of `REWRITES` to apply where they match; None is all of them. A function is
            given the converted file and returns the names.
        keep_float: modules of an int8 net that may compute in float, besides its float weighted layers; None: all.

    Raises:
        Shortfall: the exporter or the ONNX checker refuses the network, or an int8 file would compute in float what
            was not asked to.
    """
    if precision in REFUSED:
        raise Shortfall(f"onnx-{precision}: {REFUSED[precision]}")
    converted = convert(graph, size, precision, folder)
    data, applied = lowered(converted, model_file.chosen(rewrites, converted))
    if precision in FLOAT_VARIANTS:
        data = onnx_weights.apply(data, precision)
    elif precision == "int8":
        data = onnx_weights.keep_float(data)
    model = onnx.load_from_string(data)
    layer_names.name_onnx(model)
    data = _bytes(model)
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise _refused(precision, error) from error
    floats = float_ops(model)
    if precision == "int8":
        assert isinstance(graph, GraphModule)
        float_operators.check("onnx-int8", graph, floats, keep_float)
    classes = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    ports = (
        TensorSpec("input", (1, *shape_of(size)), "float32", "NCHW"),
        TensorSpec("logits", (1, classes), "float32", "NC"),
    )
    return model_file.write(folder, data, "onnx", precision, floats, ports, applied)


def convert(graph: torch.nn.Module, size: Size, precision: str, folder: Path) -> bytes:
    """The file as torch's exporter writes it, before any rewrite of ``lower/rewrites``; arguments as for `export`."""
    example = torch.zeros(1, *shape_of(size))
    try:
        with chatter.into(folder / "export.log"), torch.no_grad():
            source = fold_weights(graph) if isinstance(graph, GraphModule) else graph
            program = torch.onnx.export(
                source, (example,), dynamo=True, opset_version=OPSET, input_names=["input"], output_names=["logits"]
            )
            assert program is not None
            model: onnx.ModelProto = program.model_proto
            _strip(model)
    except (OSError, ModuleNotFoundError):
        raise
    except Exception as error:  # the exporter raises whatever an operator's translation raised
        raise _refused(precision, error) from error
    return _bytes(model)


def lowered(data: bytes, rewrites: Sequence[str] | None = None) -> tuple[bytes, tuple[str, ...]]:
    """A converted file with rewrites of ``edgekit/lower/rewrites`` applied, and the names of those that matched.

    Args:
        data: from `convert`.
        rewrites: names of `REWRITES`; None is all of them.
    """
    model = onnx.load_from_string(data)
    menu = [each for each in REWRITES if each not in ON_BYTES or not _symmetric(model.graph)]
    applied = model_file.rewrite(menu, rewrites, model)
    onnx_weights.unshare_constants(model.graph)
    return _bytes(model), applied


def float_ops(model: onnx.ModelProto) -> tuple[str, ...]:
    """Operators that an engine has to compute in float: not between DequantizeLinear and QuantizeLinear.

    A clamp counts as part of the operator before it.
    """
    return tuple(f"{node.op_type} {node.name}" for node in onnx_floats.float_nodes(model.graph))


def _symmetric(graph: onnx.GraphProto) -> bool:
    """Whether tensors are quantized, each with zero point 0."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    zeros = [constants[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"]
    return bool(zeros) and not any(numpy_helper.to_array(zero).any() for zero in zeros)


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


def _bytes(model: onnx.ModelProto) -> bytes:
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _refused(precision: str, error: Exception) -> Shortfall:
    return Shortfall(f"onnx-{precision}: torch cannot export this network: {model_file.root_line(error)}")
