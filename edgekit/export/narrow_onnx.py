"""Cut a converted int8 .onnx file to narrower layers: kernels do not look at values, so it can be timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from edgekit.export import narrow_shapes as shapes
from edgekit.export.narrow_shapes import Array, CannotCut, Cut, Cuts, Shape

ELEMENTWISE = {
    "Add",
    "Clip",
    "Div",
    "Elu",
    "Erf",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "LeakyRelu",
    "Max",
    "Min",
    "Mul",
    "PRelu",
    "Pow",
    "Relu",
    "Sigmoid",
    "Softplus",
    "Sqrt",
    "Sub",
    "Tanh",
}
"""Whose operands broadcast."""
SAME_AXES = {"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "Pad"}
QUANTIZERS = {"QuantizeLinear", "DequantizeLinear"}


def narrowed(data: bytes, cuts: Mapping[str, Cut]) -> bytes:
    """The file with the first channels of each layer only.

    Args:
        data: as `edgekit.export.formats.onnx.convert` gives it, for the whole network.
        cuts: from `edgekit.export.narrow_layers.cuts`.

    Raises:
        CannotCut: an operator's narrower form is not known exactly.
    """
    model = onnx.load_from_string(data)
    _File(model.graph, Cuts(cuts)).cut()
    narrow: bytes = model.SerializeToString(deterministic=True)
    return narrow


class _File:
    def __init__(self, graph: onnx.GraphProto, cuts: Cuts) -> None:
        self.graph = graph
        self.cuts = cuts
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.whole: dict[str, Shape] = {name: tuple(tensor.dims) for name, tensor in self.constants.items()}
        self.values = {value.name: value for value in (*graph.value_info, *graph.input, *graph.output)}
        for name, value in self.values.items():
            self.whole[name] = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        self.new = {value.name: self.whole[value.name] for value in graph.input}
        self.held: dict[str, onnx.NodeProto] = {}
        """What makes constants of constants: the dequantizers of weights."""
        self.copies: dict[str, list[onnx.NodeProto]] = {}
        self.made: dict[tuple[str, Shape], str] = {}

    def cut(self) -> None:
        """Cut every weight and constant, and write the new shapes."""
        rules: dict[str, Callable[[onnx.NodeProto], Shape]] = {
            "Conv": self.conv,
            "Gemm": self.gemm,
            "MatMul": self.matmul,
            "Reshape": self.reshape,
            "Flatten": self.flatten,
            "Concat": self.concat,
            "Transpose": self.transpose,
            "ReduceMean": self.reduce,
            **dict.fromkeys(ELEMENTWISE, self.elementwise),
            **dict.fromkeys(SAME_AXES, self.same_axes),
            **dict.fromkeys(QUANTIZERS, self.quantizer),
        }
        for node in self.graph.node:
            if all(self.is_constant(name) for name in node.input):
                self.held.update(dict.fromkeys(node.output, node))
                continue
            weighted = node.op_type in ("Conv", "Gemm", "MatMul")
            if not weighted and not any(self.is_narrower(name) for name in node.input):
                self.new.update((name, self.shape(name)) for name in node.output if name)
            elif node.op_type not in rules or len(node.output) != 1:
                raise CannotCut(f"{node.op_type} {node.name}: gets fewer channels")
            else:
                try:
                    self.new[node.output[0]] = rules[node.op_type](node)
                except CannotCut as trouble:
                    raise CannotCut(f"{node.op_type} {node.name}: {trouble}") from trouble
        self.cuts.finish()
        for value in self.graph.output:
            if self.new[value.name] != self.whole[value.name]:
                raise CannotCut(f"{value.name}: the output would change its shape")
        self.write()

    def conv(self, node: onnx.NodeProto) -> Shape:
        source, whole = self.new[node.input[0]], self.shape(node.output[0])
        weight = self.array(node.input[1])
        if source[2:] != self.shape(node.input[0])[2:]:
            raise CannotCut("gets fewer pixels")
        group = next((each for each in node.attribute if each.name == "group"), None)
        outputs, inputs, groups = self.cuts.widths(weight, group.i if group else 1, source[1])
        self.narrow(node, 1, (outputs, inputs, *weight.shape[2:]))
        if len(node.input) > 2 and node.input[2]:
            self.narrow(node, 2, (outputs,))
        if group:
            group.i = groups
        return (source[0], outputs, *whole[2:])

    def gemm(self, node: onnx.NodeProto) -> Shape:
        source = self.new[node.input[0]]
        weight = self.array(node.input[1])
        if _integer(node, "transA"):
            raise CannotCut("its input is transposed")
        turned = bool(_integer(node, "transB"))
        outputs, inputs, _ = self.cuts.widths(weight if turned else weight.T, 1, source[1])
        self.narrow(node, 1, (outputs, inputs) if turned else (inputs, outputs))
        if len(node.input) > 2 and node.input[2]:
            self.narrow(node, 2, (*self.shape(node.input[2])[:-1], outputs))
        return source[0], outputs

    def matmul(self, node: onnx.NodeProto) -> Shape:
        if not self.is_constant(node.input[1]):
            if any(self.is_narrower(name) for name in node.input):
                raise CannotCut("multiplies activations")
            return self.shape(node.output[0])
        source = self.new[node.input[0]]
        weight = self.array(node.input[1])
        if weight.ndim != 2:
            raise CannotCut("a stack of weights")
        outputs, inputs, _ = self.cuts.widths(weight.T, 1, source[-1])
        self.narrow(node, 1, (inputs, outputs))
        return (*source[:-1], outputs)

    def elementwise(self, node: onnx.NodeProto) -> Shape:
        places = [place for place, name in enumerate(node.input) if name]
        names = [node.input[place] for place in places]
        news = [None if self.is_constant(name) else self.new[name] for name in names]
        result, inputs = shapes.elementwise([self.shape(name) for name in names], self.shape(node.output[0]), news)
        for place, shape in zip(places, inputs, strict=True):
            if self.is_constant(node.input[place]):
                self.narrow(node, place, shape)
        return result

    def quantizer(self, node: onnx.NodeProto) -> Shape:
        if any(self.shape(name) not in ((), (1,)) for name in node.input[1:]):
            raise CannotCut("activations with a scale for each channel")
        return self.new[node.input[0]]

    def same_axes(self, node: onnx.NodeProto) -> Shape:
        name = node.input[0]
        return shapes.same_axes(self.shape(name), self.shape(node.output[0]), self.new[name])

    def reduce(self, node: onnx.NodeProto) -> Shape:
        if len(node.input) < 2 or node.input[1] not in self.constants:
            raise CannotCut("reduces axes that are not constant")
        name = node.input[0]
        axes = [int(axis) for axis in self.array(node.input[1])]
        return shapes.reduced(self.shape(name), self.shape(node.output[0]), self.new[name], axes)

    def reshape(self, node: onnx.NodeProto) -> Shape:
        name, target = node.input[:2]
        result = shapes.reshaped(self.shape(name), self.shape(node.output[0]), self.new[name])
        if target not in self.constants:
            raise CannotCut("its shape is computed")
        wanted = [old if old == -1 else new for old, new in zip(self.array(target), result, strict=True)]
        node.input[1] = self.store(target, np.array(wanted, np.int64))
        return result

    def flatten(self, node: onnx.NodeProto) -> Shape:
        name = node.input[0]
        return shapes.reshaped(self.shape(name), self.shape(node.output[0]), self.new[name])

    def transpose(self, node: onnx.NodeProto) -> Shape:
        source = self.new[node.input[0]]
        order = next((list(each.ints) for each in node.attribute if each.name == "perm"), range(len(source))[::-1])
        return tuple(source[axis] for axis in order)

    def concat(self, node: onnx.NodeProto) -> Shape:
        wholes = [self.shape(name) for name in node.input]
        news = [self.new.get(name, self.shape(name)) for name in node.input]
        return shapes.concatenated(wholes, self.shape(node.output[0]), news, _integer(node, "axis"))

    def is_narrower(self, name: str) -> bool:
        return name in self.new and self.new[name] != self.shape(name)

    def is_constant(self, name: str) -> bool:
        return not name or name in self.constants or name in self.held

    def shape(self, name: str) -> Shape:
        """Of the whole network."""
        if name not in self.whole or 0 in self.whole[name]:
            raise CannotCut(f"the shape of {name} is not known")
        return self.whole[name]

    def array(self, name: str) -> Array:
        """A constant's numbers, as they are stored."""
        maker = self.held.get(name)
        if maker is not None and maker.op_type == "DequantizeLinear":
            name = maker.input[0]
        if name not in self.constants:
            raise CannotCut(f"{name} is computed")
        values: Array = numpy_helper.to_array(self.constants[name])
        return values

    def narrow(self, node: onnx.NodeProto, place: int, shape: Shape) -> None:
        """Let a node use the first numbers of a constant."""
        node.input[place] = self.narrower(node.input[place], shape)

    def narrower(self, name: str, shape: Shape) -> str:
        if shape == self.shape(name):
            return name
        if (name, shape) in self.made:
            return self.made[name, shape]
        if name in self.constants:
            return self.store(name, shapes.leading(self.array(name), shape), shape)
        maker = self.held[name]
        if maker.op_type != "DequantizeLinear":
            raise CannotCut(f"{name} is computed")
        copy = onnx.NodeProto.FromString(maker.SerializeToString())
        copy.input[0] = self.narrower(maker.input[0], shape)
        axis = _integer(maker, "axis", 1)
        for place in range(1, len(maker.input)):
            if len(self.shape(maker.input[place])) == 1:
                copy.input[place] = self.narrower(maker.input[place], (shape[axis],))
        copy.name, copy.output[0] = self.unique(maker.name), self.unique(name)
        self.copies.setdefault(name, []).append(copy)
        self.made[name, shape], self.new[copy.output[0]] = copy.output[0], shape
        self.values[copy.output[0]] = self.values[name]
        return self.made[name, shape]

    def store(self, name: str, value: Array, shape: Shape | None = None) -> str:
        """Store a constant in place of another, and return its name."""
        key = name, shape or tuple(int(number) for number in value)
        if key not in self.made:
            self.made[key] = self.unique(name)
            self.constants[self.made[key]] = numpy_helper.from_array(value, self.made[key])
        return self.made[key]

    def unique(self, name: str) -> str:
        return f"{name}_narrow_{len(self.made)}"

    def write(self) -> None:
        """Put copies in the place of their originals, drop what nothing uses, and write the new shapes."""
        nodes: list[onnx.NodeProto] = []
        for node in self.graph.node:
            nodes += [node, *(copy for name in node.output for copy in self.copies.get(name, ()))]
        used = {name for node in nodes for name in node.input} | {value.name for value in self.graph.output}
        kept = [node for node in nodes if used.intersection(node.output)]
        used = {name for node in kept for name in node.input}
        _replace(self.graph.node, kept)
        _replace(self.graph.initializer, [tensor for name, tensor in self.constants.items() if name in used])
        infos = []
        ports = {value.name for value in (*self.graph.input, *self.graph.output)}
        for name in (name for node in kept for name in node.output):
            if name in self.values and name not in ports:
                info = onnx.ValueInfoProto.FromString(self.values[name].SerializeToString())
                info.name = name
                shape = self.new[name] if name in self.new else self.whole[name]
                for dim, extent in zip(info.type.tensor_type.shape.dim, shape, strict=True):
                    dim.dim_value = extent
                infos.append(info)
        _replace(self.graph.value_info, infos)


def _integer(node: onnx.NodeProto, name: str, default: int = 0) -> int:
    return next((int(each.i) for each in node.attribute if each.name == name), default)


def _replace(field: Any, values: Sequence[Any]) -> None:
    """Replace the contents of a repeated field; the new ones may include old ones."""
    copies = [type(value).FromString(value.SerializeToString()) for value in values]
    del field[:]
    field.extend(copies)
