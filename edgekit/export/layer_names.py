"""Operators of exported files are named after the torch layer they come from: ``blocks.0.0.conv_dw/Conv``.

Profiles, viewers and messages use these names. Only names change, no value and no order. In ONNX a node and its
result get the name; in TFLite, which names only tensors, the result; an ONNX file's output keeps its own. Weighted
layers are named after the module that holds the weight, other operators after the module whose code calls them.
"""

from __future__ import annotations

import ast
import re
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Any

import numpy as np
import onnx
import torch
from torch.fx import GraphModule, Node

from edgekit.export.float_operators import float_nodes
from edgekit.graph.onnx_floats import GUARD
from edgekit.graph.ops import BATCH_NORM, CLAMPS, COMPUTING, MOVING, QUANTIZE, WEIGHTED, scopes
from edgekit.graph.tflite_table import Table

SCOPES = "pkg.torch.onnx.name_scopes"
WITHOUT = {"QuantizeLinear", "DequantizeLinear", "Constant"}
ABSORBED = {"Relu", "Clip", "HardSigmoid", "HardSwish", "Sigmoid", "LeakyRelu", "Tanh"}
"""Activations that ONNX Runtime may fuse into the convolution before them."""
TFLITE_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
NAME = 10
"""Vtable offset of ``Tensor.name`` (4 + 2 * the field's number)."""


def name_onnx(model: onnx.ModelProto) -> None:
    """Name the nodes of a file that torch's exporter wrote, in place."""
    graph = model.graph
    kept = {value.name for value in graph.output}
    constants = {tensor.name for tensor in graph.initializer}
    producer = {output: node for node in graph.node for output in node.output}
    users = Counter(name for node in graph.node for name in node.input)
    consumer = {name: node for node in reversed(graph.node) for name in node.input}
    names = _Names()
    renamed: dict[str, str] = {}
    for node in graph.node:
        if node.op_type in WITHOUT or node.name.startswith(GUARD):
            continue
        source = producer.get(node.input[0]) if node.input else None
        if node.op_type in ABSORBED and source is not None and source.op_type == "Conv" and users[node.input[0]] == 1:
            layer, what = _onnx_layer(source, constants, consumer), f"Conv+{node.op_type}"
        else:
            layer, what = _onnx_layer(node, constants, consumer), node.op_type
        if layer:
            node.name = names.new(layer, what)
            if len(node.output) == 1 and node.output[0] not in kept:
                renamed[node.output[0]] = node.name
    for node in graph.node:
        for field in (node.input, node.output):
            field[:] = [renamed.get(name, name) for name in field]
    for value in graph.value_info:
        value.name = renamed.get(value.name, value.name)


def name_tflite(data: bytes, graph: torch.nn.Module) -> bytes:
    """The file with the results of its operators named.

    Args:
        data: the file that `graph` was converted to.
        graph: a network, or a torch.export graph, whose nodes know their modules.
    """
    table = Table(data)
    results = [int(operator.outputs[0]) for operator in table.graph.operators]
    known = isinstance(graph, GraphModule)
    layers = _from_graph(table, results, graph) if known else _from_names(table, results, _last_weighted(graph))
    names = _Names()
    renamed = {
        tensor: names.new(layer, table.kind(operator))
        for operator, tensor, layer in zip(table.graph.operators, results, layers, strict=True)
        if layer
    }
    edited = bytearray(data)
    tensors = table.schema.Model.GetRootAsModel(data, 0).Subgraphs(0)
    for tensor, name in renamed.items():
        entry = tensors.Tensors(tensor)._tab
        at = entry.Pos + entry.Offset(NAME)
        edited.extend(bytes(-len(edited) % 4))
        struct.pack_into("<I", edited, at, len(edited) - at)
        edited.extend(struct.pack("<I", len(name)) + name.encode() + b"\0")
    return bytes(edited)


class _Names:
    """Unique names."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()

    def new(self, layer: str, what: str) -> str:
        name = f"{layer}/{what}"
        self._seen[name] += 1
        return name if self._seen[name] == 1 else f"{name}#{self._seen[name]}"


def _onnx_layer(node: onnx.NodeProto, constants: set[str], consumer: dict[str, onnx.NodeProto]) -> str:
    weight = node.input[1] if len(node.input) > 1 else ""
    if weight in constants and weight.endswith(".weight"):  # otherwise it has batch norm's name
        return weight.removesuffix(".weight")
    for prop in node.metadata_props:
        if prop.key == SCOPES and node.op_type not in WITHOUT:
            modules = [name for name in ast.literal_eval(prop.value)[:-1] if name]
            return modules[-1] if modules else ""
    behind = consumer.get(node.output[0])
    return _onnx_layer(behind, constants, consumer) if behind is not None else ""


def _last_weighted(module: torch.nn.Module) -> str:
    names = [name for name, part in module.named_modules() if isinstance(part, torch.nn.Linear | torch.nn.Conv2d)]
    return names[-1] if names else ""


def _from_names(table: Table, results: Sequence[int], last: str) -> list[str]:
    """By litert-torch's tensor names, paths of ``package.Class_attribute``; of fused operators the last comes first.

    The network's output has no such name; it is attributed to the `last` weighted layer if a weighted layer makes it.
    """
    layers = []
    for operator, tensor in zip(table.graph.operators, results, strict=True):
        paths = [path for path in re.split(r";\d*", table.graph.tensors[tensor].name.decode()) if path]
        path = paths[-1 if table.kind(operator) in TFLITE_WEIGHTED else 0] if paths else ""
        parts = [re.sub(r"^[^_]*_", "", part.rpartition(".")[2]) for part in path.split("/")]
        layers.append(".".join(parts[2:]) if "_wrapped" in path else "")
    if layers and not layers[-1] and table.kind(table.graph.operators[-1]) in TFLITE_WEIGHTED:
        layers[-1] = last
    return _carried(layers)


def _from_graph(table: Table, results: Sequence[int], graph: Any) -> list[str]:
    """Layers by grids and sizes, in order of execution: the converter keeps both but drops the modules."""
    known = list(_nodes(graph))
    ours = [key for key, _ in known]
    keys = [
        () if table.kind(operator) == "DEQUANTIZE" else _key(table, tensor)  # no layer's own
        for operator, tensor in zip(table.graph.operators, results, strict=True)
    ]
    if not any(len(key) and key[0] is not None for key in ours):  # a float graph
        keys = [(None, *key[1:]) for key in keys]
    layers = [""] * len(results)
    for low, start, count in SequenceMatcher(None, ours, keys, autojunk=False).get_matching_blocks():
        for place in range(count):
            layers[start + place] = known[low + place][1]
    return _carried(layers)


def _nodes(graph: GraphModule) -> Iterator[tuple[tuple[object, ...], str]]:
    """Key and layer of each kernel's result."""
    nodes = list(graph.graph.nodes)
    integer = any(node.target is QUANTIZE for node in nodes)
    floats = set(float_nodes(graph)) if integer else set()
    for node in nodes:
        if node.op != "call_function" or not isinstance(node.meta.get("val"), torch.Tensor):
            continue
        extents = tuple(sorted(size for size in node.meta["val"].shape if size > 1))
        if integer and node.target is QUANTIZE and node.args[0].op == "call_function":
            grid = float(np.float32(node.args[1])), int(node.args[2])
            yield (grid, *extents), _layer(node.args[0])
        elif node in floats or (node.target in WEIGHTED | COMPUTING and not integer):
            yield (None, *extents), _layer(node)


def _layer(node: Any) -> str:
    while node.target in CLAMPS | BATCH_NORM | MOVING and node.all_input_nodes:
        node = node.all_input_nodes[0]
    assert isinstance(node, Node)
    return (scopes(node) or ("",))[-1]


def _key(table: Table, tensor: int) -> tuple[object, ...]:
    spec = table.graph.tensors[tensor]
    grid = spec.quantization
    extents = tuple(sorted(int(size) for size in spec.shape if size > 1)) if spec.shape is not None else ()
    if grid is None or grid.scale is None or len(grid.scale) != 1:
        return (None, *extents)
    return ((float(grid.scale[0]), int(grid.zeroPoint[0])), *extents)


def _carried(layers: list[str]) -> list[str]:
    """Give operators without a layer (PAD, RESHAPE) the layer of the next operator, at the end of the previous one."""
    for place in reversed(range(len(layers) - 1)):
        layers[place] = layers[place] or layers[place + 1]
    for place in range(1, len(layers)):
        layers[place] = layers[place] or layers[place - 1]
    return layers
