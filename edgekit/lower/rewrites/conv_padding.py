"""A Pad before a convolution becomes the convolution's own padding, with or without Q/DQ pairs in between.

Helps ONNX Runtime, which does not look through the quantizers: MobileNetV2 with TensorFlow's SAME padding keeps five
float Pads between integer convolutions.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

NAME = "conv_padding"
SCOPE = "onnx"


def apply(model: onnx.ModelProto) -> int:
    """Rewrite every zero Pad of height and width that only feeds convolutions, in place; returns how many."""
    graph = _Graph(model.graph)
    count = 0
    for pad in [node for node in model.graph.node if node.op_type == "Pad"]:
        amounts = graph.amounts(pad)
        path = graph.to_convolutions(pad)
        if amounts is None or path is None:
            continue
        for conv in path.convolutions:
            _add(conv, amounts)
            conv.input[0] = pad.input[0]
        for node in (*path.between, pad):
            model.graph.node.remove(node)
        graph = _Graph(model.graph)
        count += 1
    return count


@dataclass(frozen=True)
class _Path:
    between: tuple[onnx.NodeProto, ...]
    """Q/DQ nodes that repeat the grid before the Pad."""
    convolutions: tuple[onnx.NodeProto, ...]


class _Graph:
    def __init__(self, graph: onnx.GraphProto) -> None:
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.producer = {output: node for node in graph.node for output in node.output}
        self.users: dict[str, list[onnx.NodeProto]] = {output.name: [] for output in graph.output}
        for node in graph.node:
            for name in node.input:
                self.users.setdefault(name, []).append(node)
        self.outputs = Counter(output.name for output in graph.output)

    def value(self, name: str) -> npt.NDArray[Any] | None:
        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def amounts(self, pad: onnx.NodeProto) -> tuple[int, int, int, int] | None:
        """(top, left, bottom, right) of a constant zero Pad that leaves batch and channels alone."""
        mode = next((attribute.s for attribute in pad.attribute if attribute.name == "mode"), b"constant")
        pads = self.value(pad.input[1])
        fill = self.value(pad.input[2]) if len(pad.input) > 2 and pad.input[2] else np.zeros(1)
        if mode != b"constant" or len(pad.input) > 3 or pads is None or fill is None or len(pads) != 8 or fill.any():
            return None
        if pads.min() < 0 or pads[[0, 1, 4, 5]].any():
            return None
        return int(pads[2]), int(pads[3]), int(pads[6]), int(pads[7])

    def to_convolutions(self, pad: onnx.NodeProto) -> _Path | None:
        users = self.users.get(pad.output[0], [])
        between: list[onnx.NodeProto] = []
        before = self.producer.get(pad.input[0])
        if len(users) == 1 and users[0].op_type == "QuantizeLinear":
            if before is None or before.op_type != "DequantizeLinear" or not self._same_grid(before, users[0]):
                return None
            between = [*self.users[users[0].output[0]], users[0]]
            if any(node.op_type != "DequantizeLinear" for node in between[:-1]):
                return None
            users = [user for node in between[:-1] for user in self.users[node.output[0]]]
        elif before is not None and before.op_type == "DequantizeLinear":
            return None  # a float Pad in an int8 net: the recipe asked for it
        if not users or not all(_pads_itself(user) for user in users):
            return None
        if any(self.outputs[name] for node in (*between, pad) for name in node.output):
            return None
        return _Path(tuple(between), tuple(users))

    def _same_grid(self, one: onnx.NodeProto, other: onnx.NodeProto) -> bool:
        pairs = [(self.value(one.input[place]), self.value(other.input[place])) for place in (1, 2)]
        return all(a is not None and b is not None and np.array_equal(a, b) for a, b in pairs)


def _attribute(node: onnx.NodeProto, name: str) -> onnx.AttributeProto | None:
    return next((attribute for attribute in node.attribute if attribute.name == name), None)


def _pads_itself(user: onnx.NodeProto) -> bool:
    automatic = _attribute(user, "auto_pad")
    return user.op_type == "Conv" and (automatic is None or automatic.s == b"NOTSET")


def _add(conv: onnx.NodeProto, amounts: tuple[int, int, int, int]) -> None:
    pads = _attribute(conv, "pads")
    own = list(pads.ints) if pads is not None else [0, 0, 0, 0]
    if pads is not None:
        conv.attribute.remove(pads)
    conv.attribute.append(helper.make_attribute("pads", [a + b for a, b in zip(own, amounts, strict=True)]))
