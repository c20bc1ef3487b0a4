"""Depthwise layers and the convolutions around them are padded with zero channels to a multiple of sixteen.

Helps ONNX Runtime on x86, whose depthwise integer kernel takes channels in sixteens and the rest one by one. No value
changes: the new channels are written and read by zero weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

NAME = "sixteen_channels"
SCOPE = "onnx"
LANES = 16
MOST = 4
"""At most one new channel for each `MOST` existing ones."""
PASSING = {"QuantizeLinear", "DequantizeLinear", "Clip", "Relu", "Sigmoid", "Mul", "Add", "GlobalAveragePool", "Pad"}
"""Operators that work on each channel separately."""


def apply(model: onnx.ModelProto) -> int:
    """Rewrite every suitable depthwise layer of a quantized file, in place; returns how many."""
    file = _File(model.graph)
    count = sum(file.fill(conv) for conv in model.graph.node if file.groups(conv) > 1)
    if count:
        used = {name for node in model.graph.node for name in node.input}
        kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)
    return count


class _File:
    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self.producer = {output: node for node in graph.node for output in node.output}
        self.users: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self.users.setdefault(name, []).append(node)

    def groups(self, node: Any) -> int:
        return (
            int(next((each.i for each in node.attribute if each.name == "group"), 0)) if node.op_type == "Conv" else 0
        )

    def fill(self, conv: Any) -> bool:
        """Pad one depthwise layer and all that shares its channels; False if some of it cannot be padded."""
        channels = self.groups(conv)
        missing = -channels % LANES
        if not missing or MOST * missing > channels:
            return False
        tensors, waiting = {conv.output[0]}, [conv.output[0]]
        rows: dict[str, Any] = {}
        columns: dict[str, Any] = {}  # convolutions that get output channels, and input channels
        while waiting:
            name = waiting.pop()
            source = self.producer.get(name)
            for node in [source, *self.users.get(name, [None])]:
                if node is None or any(node.output[0] == value.name for value in self.graph.output):
                    return False  # the network's input or output
                if node.op_type == "Conv":
                    weight = self.weight(node)
                    depthwise = self.groups(node) == channels == len(weight) if weight is not None else False
                    if weight is None or (self.groups(node) > 1 and not depthwise):
                        return False
                    makes = depthwise or node is source
                    if channels != (len(weight) if makes else weight.shape[1]):
                        return False  # broadcast over the channels
                    (rows if makes else columns)[node.name] = node
                    more = [node.input[0], node.output[0]] if depthwise else []
                elif node.op_type in PASSING or self.pools(node):
                    every = [*node.input[: 2 if node.op_type in ("Mul", "Add") else 1], *node.output]
                    if any(each in self.constants and self.constants[each].size > 1 for each in every):
                        return False
                    more = [each for each in every if each not in self.constants and not self.scalar(each)]
                else:
                    return False
                waiting += [each for each in dict.fromkeys(more) if each not in tensors]
                tensors.update(more)
        for node in rows.values():
            holder = self.producer[node.input[1]]
            for owner, place in ((holder, 0), (holder, 1), (holder, 2), (node, 2)):
                self.widen(owner, place, 0, missing)
        for node in columns.values():
            self.widen(self.producer[node.input[1]], 0, 1, missing)
        for attribute in (each for node in rows.values() for each in node.attribute):
            if attribute.name == "group" and attribute.i == channels:
                attribute.i += missing
        stale = {*tensors, *(node.input[1] for node in [*rows.values(), *columns.values()])}
        kept = [value for value in self.graph.value_info if value.name not in stale]
        del self.graph.value_info[:]
        self.graph.value_info.extend(kept)
        return True

    def pools(self, node: Any) -> bool:
        """Whether it is a mean over height and width that keeps the dimensions."""
        keeps = all(each.i for each in node.attribute if each.name == "keepdims")
        axes = self.constants.get(node.input[1]) if node.op_type == "ReduceMean" and len(node.input) > 1 else None
        return axes is not None and keeps and {int(axis) % 4 for axis in axes} <= {2, 3}

    def weight(self, conv: Any) -> Any:
        """Its integer weight; None if it or its bias is not a constant."""
        holder = self.producer.get(conv.input[1])
        biased = len(conv.input) < 3 or conv.input[2] in self.constants
        return self.constants.get(holder.input[0]) if holder is not None and biased else None

    def scalar(self, name: str) -> bool:
        """Whether a tensor is a dequantized constant of one element."""
        source = self.producer.get(name)
        return source is not None and source.input[0] in self.constants and self.constants[source.input[0]].size == 1

    def widen(self, owner: Any, place: int, axis: int, missing: int) -> None:
        if len(owner.input) <= place:
            return
        values = self.constants[owner.input[place]]
        scale = owner.op_type == "DequantizeLinear" and place == 1
        amounts = [(0, missing if each == axis else 0) for each in range(values.ndim)]
        wide = np.pad(values, amounts, "edge" if scale else "constant")
        name = f"{owner.input[place]}_{'x'.join(map(str, wide.shape))}"
        if name not in self.constants:
            self.constants[name] = wide
            self.graph.initializer.append(numpy_helper.from_array(wide, name))
        owner.input[place] = name
