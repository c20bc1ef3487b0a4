"""Smaller weights in a float .tflite file, by ai-edge-quantizer; and the 64-bit biases of int16x8."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
WEIGHTED = (*CONVOLUTIONS, "FULLY_CONNECTED")


def apply(data: bytes, precision: str) -> bytes:
    """Store the weights of a float file, which are already on the grid of `precision`, in that precision.

    Args:
        data: a .tflite file in float32.
        precision: "fp16", "weight_only" or "dynamic".
    """
    from ai_edge_quantizer.quantizer import AlgorithmName, Quantizer

    quantizer = Quantizer(data)
    for kind in WEIGHTED:
        if precision == "fp16":
            quantizer.add_weight_only_config(".*", kind, 16, algorithm_key=AlgorithmName.FLOAT_CASTING)
        elif precision == "dynamic" and kind != "DEPTHWISE_CONV_2D":
            quantizer.add_dynamic_config(".*", kind, 8)
        else:
            quantizer.add_weight_only_config(".*", kind, 8)
    grouped = _grouped(data)
    if precision == "dynamic" and grouped:
        names = "|".join(re.escape(name) for name in grouped)
        quantizer.add_weight_only_config(f"^({names});?$", "CONV_2D", 8)
    return bytes(quantizer.quantize().quantized_model)


def widen_biases(data: bytes) -> bytes:
    """Biases of int16 operators in 64 bits, as TFLite's specification of 16x8 requires; converters write 32."""
    model: Any = flatbuffer_utils.read_model_from_bytearray(bytearray(data))
    graph = model.subgraphs[0]
    for operator in graph.operators:
        if flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex) not in WEIGHTED or len(operator.inputs) < 3:
            continue
        source, bias = (graph.tensors[operator.inputs[place]] for place in (0, 2))
        if source.type == schema.TensorType.INT16 and bias.type == schema.TensorType.INT32:
            narrow = np.frombuffer(bytes(model.buffers[bias.buffer].data), "<i4")
            wide = schema.BufferT()
            wide.data = np.frombuffer(narrow.astype("<i8").tobytes(), np.uint8)
            model.buffers.append(wide)
            bias.buffer, bias.type = len(model.buffers) - 1, schema.TensorType.INT64
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _grouped(data: bytes) -> list[str]:
    """Output tensors of grouped convolutions."""
    model: Any = flatbuffer_utils.read_model_from_bytearray(bytearray(data))
    graph = model.subgraphs[0]
    names = []
    for operator in graph.operators:
        if flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex) == "CONV_2D":
            source, weight = (graph.tensors[operator.inputs[place]] for place in (0, 1))
            if source.shape[3] != weight.shape[3]:
                names.append(graph.tensors[operator.outputs[0]].name.decode())
    return names
