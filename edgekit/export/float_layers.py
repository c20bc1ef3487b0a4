"""Operators that stay float between integer ones, despite a converter that quantizes all that is between Q/DQ pairs.

A cosine on each way from a dequantized tensor into such an operator stops the converter from quantizing it, because
TFLite has no integer cosine; after conversion the cosines are removed. A network with cosines of its own gets sines.
"""

from __future__ import annotations

import copy
from typing import Any

from ai_edge_litert.tools import flatbuffer_utils
from torch.fx import GraphModule, Node

from edgekit.errors import Shortfall
from edgekit.export.float_operators import arrives, float_nodes
from edgekit.graph.kernels import kernels
from edgekit.graph.ops import WEIGHTED, aten

MARKS = {"COS": aten.cos.default, "SIN": aten.sin.default}


def mark(graph: GraphModule) -> tuple[GraphModule, str, int]:
    """A copy with marks before every operator that must stay float, what marks it, and how many marks there are.

    Without such operators, the graph itself.
    """
    if not _floats(graph):
        return graph, "", 0
    marked = copy.deepcopy(graph)
    marked.graph.eliminate_dead_code()
    targets = {node.target for node in marked.graph.nodes}
    kind = next((kind for kind, target in MARKS.items() if target not in targets), "")
    made: dict[Node, Node] = {}
    for node in _floats(marked):
        sources: list[Any] = [node.args[0]] if node.target in WEIGHTED else node.all_input_nodes
        for source in sources:
            if not arrives(source) or _is_constant(source):
                continue
            if not kind:
                raise Shortfall(
                    "the network computes sines and cosines and keeps operators in float, which TFLite export cannot "
                    "tell apart; leave tflite out of export.formats"
                )
            if source not in made:
                with marked.graph.inserting_after(source):
                    made[source] = marked.graph.call_function(MARKS[kind], (source,))
                made[source].meta = dict(source.meta)
            node.replace_input_with(source, made[source])
    marked.recompile()
    return marked, kind, len(made)


def _floats(graph: GraphModule) -> list[Node]:
    integer = {kernel.node for kernel in kernels(graph)}
    weighted = [node for node in graph.graph.nodes if node.op == "call_function" and node.target in WEIGHTED]
    return list(dict.fromkeys([*float_nodes(graph), *(node for node in weighted if node not in integer)]))


def _is_constant(node: Node) -> bool:
    while node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node.op == "get_attr"


def unmark(data: bytes, kind: str, count: int) -> bytes:
    """A .tflite file without its marks of this kind, of which there were `count`.

    Raises:
        Shortfall: the converter lost them.
    """
    if not count:
        return data
    model: Any = flatbuffer_utils.read_model_from_bytearray(bytearray(data))
    graph = model.subgraphs[0]
    marks = [each for each in graph.operators if flatbuffer_utils.opcode_to_name(model, each.opcodeIndex) == kind]
    if not marks:  # it may join some
        raise Shortfall(f"the converter lost the marks of {count} inputs of operators that must stay float")
    source = {int(each.outputs[0]): int(each.inputs[0]) for each in marks}
    graph.operators = [each for each in graph.operators if each not in marks]
    for operator in graph.operators:
        operator.inputs = [source.get(int(tensor), int(tensor)) for tensor in operator.inputs]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))
