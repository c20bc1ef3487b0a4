"""Cut a converted int8 .tflite file to narrower layers: kernels do not look at values, so it can be timed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from edgekit.export import narrow_shapes as shapes
from edgekit.export.narrow_shapes import Array, CannotCut, Cut, Cuts, Shape

ELEMENTWISE = {
    "ADD",
    "DEQUANTIZE",
    "DIV",
    "GELU",
    "HARD_SWISH",
    "LEAKY_RELU",
    "LOGISTIC",
    "MAXIMUM",
    "MINIMUM",
    "MUL",
    "POW",
    "PRELU",
    "QUANTIZE",
    "RELU",
    "RELU6",
    "RELU_0_TO_1",
    "RELU_N1_TO_1",
    "RSQRT",
    "SQRT",
    "SUB",
    "TANH",
}
"""Whose operands broadcast."""
SAME_AXES = {"AVERAGE_POOL_2D", "MAX_POOL_2D", "MIRROR_PAD", "PAD", "PADV2"}
REDUCING = {"MEAN", "REDUCE_MAX", "SUM"}
WEIGHTED = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}
TYPES = {
    schema.TensorType.FLOAT32: "<f4",
    schema.TensorType.FLOAT16: "<f2",
    schema.TensorType.INT8: "<i1",
    schema.TensorType.UINT8: "<u1",
    schema.TensorType.INT16: "<i2",
    schema.TensorType.INT32: "<i4",
    schema.TensorType.INT64: "<i8",
}


def narrowed(data: bytes, cuts: Mapping[str, Cut]) -> bytes:
    """The file with the first channels of each layer only.

    Args:
        data: as `edgekit.export.formats.tflite.convert` gives it, for the whole network.
        cuts: from `edgekit.export.narrow_layers.cuts`.

    Raises:
        CannotCut: an operator's narrower form is not known exactly.
    """
    model: Any = flatbuffer_utils.read_model_from_bytearray(bytearray(data))
    if len(model.subgraphs) != 1:
        raise CannotCut("a file of several graphs")
    _File(model, Cuts(cuts)).cut()
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


class _File:
    def __init__(self, model: Any, cuts: Cuts) -> None:
        self.model = model
        self.graph = model.subgraphs[0]
        self.cuts = cuts
        self.whole: list[Shape | None] = [_shape(tensor) for tensor in self.graph.tensors]
        self.constant = [model.buffers[tensor.buffer].data is not None for tensor in self.graph.tensors]
        self.new: dict[int, Shape] = {int(tensor): self.shape(int(tensor)) for tensor in self.graph.inputs}
        self.made: dict[tuple[int, Shape], int] = {}

    def cut(self) -> None:
        """Cut every weight and constant, and write the new shapes."""
        rules: dict[str, Callable[[Any], Shape]] = {
            "CONV_2D": self.conv,
            "DEPTHWISE_CONV_2D": self.depthwise,
            "FULLY_CONNECTED": self.fully_connected,
            "RESHAPE": self.reshape,
            "CONCATENATION": self.concat,
            "TRANSPOSE": self.transpose,
            **dict.fromkeys(ELEMENTWISE, self.elementwise),
            **dict.fromkeys(SAME_AXES, self.same_axes),
            **dict.fromkeys(REDUCING, self.reduce),
        }
        for operator in self.graph.operators:
            kind = flatbuffer_utils.opcode_to_name(self.model, operator.opcodeIndex)
            if kind not in WEIGHTED and not any(self.is_narrower(int(tensor)) for tensor in operator.inputs):
                self.new.update((int(tensor), self.shape(int(tensor))) for tensor in operator.outputs)
            elif kind not in rules or len(operator.outputs) != 1:
                raise CannotCut(f"{kind}: gets fewer channels")
            else:
                try:
                    self.new[int(operator.outputs[0])] = rules[kind](operator)
                except CannotCut as trouble:
                    raise CannotCut(f"{kind}: {trouble}") from trouble
        self.cuts.finish()
        if any(self.is_narrower(int(tensor)) for tensor in self.graph.outputs):
            raise CannotCut("the output would change its shape")
        self.write()

    def conv(self, operator: Any) -> Shape:
        source, whole = int(operator.inputs[0]), self.shape(int(operator.outputs[0]))
        weight = self.array(int(operator.inputs[1]))
        self.check_pixels(source)
        groups = self.shape(source)[3] // weight.shape[3]
        outputs, inputs, _ = self.cuts.widths(np.moveaxis(weight, 3, 1), groups, self.new[source][3])
        if groups > 1 and (outputs, inputs) != (weight.shape[0], weight.shape[3]):
            raise CannotCut("grouped")
        self.narrow(operator, 1, (outputs, *weight.shape[1:3], inputs))
        self.narrow_bias(operator, outputs)
        return (*whole[:3], outputs)

    def depthwise(self, operator: Any) -> Shape:
        source, whole = int(operator.inputs[0]), self.shape(int(operator.outputs[0]))
        weight = self.array(int(operator.inputs[1]))
        self.check_pixels(source)
        groups, channels = self.shape(source)[3], self.new[source][3]
        outputs = self.cuts.widths(np.moveaxis(weight, 3, 0), groups, channels)[0]
        if outputs != weight.shape[3] and operator.builtinOptions.depthMultiplier != 1:
            raise CannotCut("several outputs for each input")
        self.narrow(operator, 1, (*weight.shape[:3], outputs))
        self.narrow_bias(operator, outputs)
        return (*whole[:3], outputs)

    def fully_connected(self, operator: Any) -> Shape:
        source, whole = int(operator.inputs[0]), self.shape(int(operator.outputs[0]))
        old, new = self.shape(source), self.new[source]
        weight = self.array(int(operator.inputs[1]))
        if prod(old[:-1]) * prod(whole[:-1]) == 1:  # it may flatten an image
            outputs, inputs, _ = self.cuts.widths(weight, 1, prod(new))
        elif old[-1] == weight.shape[1] and old[:-1] == new[:-1]:
            outputs, inputs, _ = self.cuts.widths(weight, 1, new[-1])
        else:
            raise CannotCut("an input that it flattens")
        self.narrow(operator, 1, (outputs, inputs))
        self.narrow_bias(operator, outputs)
        return (*whole[:-1], outputs)

    def elementwise(self, operator: Any) -> Shape:
        names = [int(tensor) for tensor in operator.inputs]
        news = [None if self.constant[tensor] else self.new[tensor] for tensor in names]
        whole = self.shape(int(operator.outputs[0]))
        result, inputs = shapes.elementwise([self.shape(tensor) for tensor in names], whole, news)
        for place, shape in enumerate(inputs):
            if self.constant[names[place]]:
                self.narrow(operator, place, shape)
        return result

    def same_axes(self, operator: Any) -> Shape:
        source = int(operator.inputs[0])
        return shapes.same_axes(self.shape(source), self.shape(int(operator.outputs[0])), self.new[source])

    def reduce(self, operator: Any) -> Shape:
        source, axes = (int(tensor) for tensor in operator.inputs)
        whole = self.shape(int(operator.outputs[0]))
        return shapes.reduced(self.shape(source), whole, self.new[source], self.array(axes).reshape(-1).tolist())

    def reshape(self, operator: Any) -> Shape:
        source, *target = (int(tensor) for tensor in operator.inputs)
        result = shapes.reshaped(self.shape(source), self.shape(int(operator.outputs[0])), self.new[source])
        if target:
            value = np.array(result, TYPES[self.graph.tensors[target[0]].type])
            operator.inputs[1] = self.store(target[0], result, value.reshape(self.array(target[0]).shape))
        if operator.builtinOptions is not None and operator.builtinOptions.newShape is not None:
            operator.builtinOptions.newShape = list(result)
        return result

    def transpose(self, operator: Any) -> Shape:
        source, order = (int(tensor) for tensor in operator.inputs)
        return tuple(self.new[source][axis] for axis in self.array(order).tolist())

    def concat(self, operator: Any) -> Shape:
        names = [int(tensor) for tensor in operator.inputs]
        wholes = [self.shape(tensor) for tensor in names]
        news = [self.new.get(tensor, whole) for tensor, whole in zip(names, wholes, strict=True)]
        whole = self.shape(int(operator.outputs[0]))
        return shapes.concatenated(wholes, whole, news, operator.builtinOptions.axis)

    def is_narrower(self, tensor: int) -> bool:
        return tensor in self.new and self.new[tensor] != self.shape(tensor)

    def check_pixels(self, source: int) -> None:
        if self.new[source][:3] != self.shape(source)[:3]:
            raise CannotCut("gets fewer pixels")

    def shape(self, tensor: int) -> Shape:
        """Of the whole network."""
        shape = self.whole[tensor]
        if shape is None or self.graph.tensors[tensor].shapeSignature is not None:
            raise CannotCut("the shape of a tensor is not known")
        return shape

    def array(self, tensor: int) -> Array:
        """A constant's numbers, as the whole network has them."""
        spec = self.graph.tensors[tensor]
        if not self.constant[tensor] or spec.type not in TYPES:
            raise CannotCut("a weight that is computed, or of a rare type")
        values = np.frombuffer(bytes(self.model.buffers[spec.buffer].data), TYPES[spec.type])
        return values.reshape(self.shape(tensor))

    def narrow(self, operator: Any, place: int, shape: Shape) -> None:
        """Let an operator use the first numbers of a constant."""
        tensor = int(operator.inputs[place])
        if shape != self.shape(tensor):
            operator.inputs[place] = self.store(tensor, shape, shapes.leading(self.array(tensor), shape))

    def narrow_bias(self, operator: Any, outputs: int) -> None:
        if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
            self.narrow(operator, 2, (*self.shape(int(operator.inputs[2]))[:-1], outputs))

    def store(self, tensor: int, key: Shape, value: Array) -> int:
        """Store a constant in place of another, and return its index."""
        if (tensor, key) not in self.made:
            spec = copy.deepcopy(self.graph.tensors[tensor])
            spec.shape = list(value.shape)
            grid = spec.quantization
            if grid is not None and grid.scale is not None and len(grid.scale) > 1:
                for name in ("scale", "zeroPoint", "min", "max"):
                    numbers = getattr(grid, name)
                    setattr(grid, name, None if numbers is None else numbers[: value.shape[grid.quantizedDimension]])
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(value.tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            spec.buffer = len(self.model.buffers) - 1
            self.graph.tensors.append(spec)
            self.made[tensor, key] = len(self.graph.tensors) - 1
        return self.made[tensor, key]

    def write(self) -> None:
        """Write the new shapes, and drop tensors and buffers that nothing uses."""
        for tensor, shape in self.new.items():
            self.graph.tensors[tensor].shape = list(shape)
        lists = [self.graph.inputs, self.graph.outputs]
        lists += [each for operator in self.graph.operators for each in (operator.inputs, operator.outputs)]
        used = sorted({int(tensor) for each in lists for tensor in each} - {-1})
        place = {-1: -1, **{tensor: index for index, tensor in enumerate(used)}}
        for each in lists:
            each[:] = [place[int(tensor)] for tensor in each]
        for signature in self.model.signatureDefs or []:
            for port in (*signature.inputs, *signature.outputs):
                port.tensorIndex = place[port.tensorIndex]
        self.graph.tensors = [self.graph.tensors[tensor] for tensor in used]
        held = {tensor.buffer for tensor in self.graph.tensors} | {each.buffer for each in self.model.metadata or []}
        for index, buffer in enumerate(self.model.buffers):
            if index not in held:
                buffer.data = None


def _shape(tensor: Any) -> Shape | None:
    return None if tensor.shape is None else tuple(int(extent) for extent in tensor.shape)
