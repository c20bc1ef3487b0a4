"""Layers that stay float between integer ones, despite a converter that quantizes all that is between Q/DQ pairs.

A cosine before such a layer stops the converter from quantizing it, because TFLite has no integer cosine; after
conversion the cosine is removed.
"""

from __future__ import annotations

import copy
from typing import Any

from ai_edge_litert.tools import flatbuffer_utils
from torch.fx import GraphModule

from edgekit.errors import Shortfall
from edgekit.graph.kernels import float_layers, kernels
from edgekit.graph.ops import WEIGHTED, aten

MARK = aten.cos.default
KIND = "COS"


def mark(graph: GraphModule) -> tuple[GraphModule, int]:
    """A copy with a mark before every weighted operator that must stay float, and how many there are."""
    names = float_layers(graph)
    if not names:
        return graph, 0
    if any(node.target is MARK for node in graph.graph.nodes):
        raise Shortfall(
            f"the network computes a cosine and keeps layers in float ({', '.join(names)}), which TFLite export cannot "
            "tell apart; leave quantize.keep_float empty, or tflite out of export.formats"
        )
    marked = copy.deepcopy(graph)
    weighted = [node for node in marked.graph.nodes if node.op == "call_function" and node.target in WEIGHTED]
    integer = {kernel.node for kernel in kernels(marked)}
    count = 0
    for node in weighted:
        if node not in integer:
            source: Any = node.args[0]
            with marked.graph.inserting_before(node):
                cosine = marked.graph.call_function(MARK, (source,))
            cosine.meta = dict(source.meta)
            node.update_arg(0, cosine)
            count += 1
    marked.recompile()
    return marked, count


def unmark(data: bytes, count: int) -> bytes:
    """A .tflite file without its `count` marks.

    Raises:
        Shortfall: the converter lost some of them.
    """
    if not count:
        return data
    model: Any = flatbuffer_utils.read_model_from_bytearray(bytearray(data))
    graph = model.subgraphs[0]
    marks = [each for each in graph.operators if flatbuffer_utils.opcode_to_name(model, each.opcodeIndex) == KIND]
    if len(marks) != count:
        raise Shortfall(f"the converter moved {count - len(marks)} of {count} layers that must stay float")
    source = {int(each.outputs[0]): int(each.inputs[0]) for each in marks}
    graph.operators = [each for each in graph.operators if each not in marks]
    for operator in graph.operators:
        operator.inputs = [source.get(int(tensor), int(tensor)) for tensor in operator.inputs]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))
