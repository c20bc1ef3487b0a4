"""Where the Q/DQ pairs go: the torchao PT2E quantizer behind every int8 file.

int8, affine per tensor for activations, symmetric per output channel for weights, as TFLite's quantization
specification requires (https://ai.google.dev/edge/litert/models/quantization_spec) and ONNX Runtime can run. The graph
itself carries the scales, so one decision serves both formats. Activations may be symmetric, too.

A tensor gets one Q/DQ pair where an integer kernel ends. A convolution and the clamp after it are one kernel, with no
pair in between; ops that only move data share the scale of their input, and so does a clamp on its own. What a float
operator computes and several integer kernels read, some of them moved, has one grid, too: LiteRT's converter puts all
moves on the grid of one reader, and the others would read wrong values.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.quantizer import (
    FixedQParamsQuantizationSpec,
    QuantizationAnnotation,
    QuantizationSpec,
    QuantizationSpecBase,
    Quantizer,
    SharedQuantizationSpec,
)

from edgekit.graph.ops import ADDS, BATCH_NORM, CLAMPS, COMPUTING, MOVING, SIGMOIDS, WEIGHTED, has_own_weight, scopes

SIGMOID = FixedQParamsQuantizationSpec(
    dtype=torch.int8, scale=1 / 256, zero_point=-128, quant_min=-128, quant_max=127, qscheme=torch.per_tensor_affine
)
"""What TFLite's specification prescribes for the output of LOGISTIC."""
SYMMETRIC_SIGMOID = FixedQParamsQuantizationSpec(
    dtype=torch.int8, scale=1 / 126, zero_point=0, quant_min=-128, quant_max=127, qscheme=torch.per_tensor_symmetric
)
"""The finest symmetric grid that holds 0, 1/2 and 1 exactly: on one of 1/127, 1/2 is a tie."""

Observer = Callable[..., Any]


class Int8Quantizer(Quantizer):  # type: ignore[misc]
    """Annotates an exported float graph for static int8.

    Args:
        activation: observer of activations, which determines ranges during calibration.
        weight: observer of weights, per channel.
        keep_float: qualified module names (``"blocks.3.0.conv_dw"``) whose ops stay in float.
        symmetric: activations have zero point 0, as TensorRT and CoreML demand.
    """

    def __init__(
        self, activation: Observer, weight: Observer, keep_float: Iterable[str] = (), symmetric: bool = False
    ) -> None:
        super().__init__()
        self.activation = QuantizationSpec(
            dtype=torch.int8,
            observer_or_fake_quant_ctr=activation,
            quant_min=-128,
            quant_max=127,
            qscheme=torch.per_tensor_symmetric if symmetric else torch.per_tensor_affine,
        )
        self.weight = QuantizationSpec(
            dtype=torch.int8,
            observer_or_fake_quant_ctr=weight,
            quant_min=-127,
            quant_max=127,
            qscheme=torch.per_channel_symmetric,
            ch_axis=0,
        )
        self.sigmoid = SYMMETRIC_SIGMOID if symmetric else SIGMOID
        self.keep_float = frozenset(keep_float)

    def annotate(self, model: GraphModule) -> GraphModule:
        """Write a `QuantizationAnnotation` on every node of an integer kernel."""
        for node in model.graph.nodes:
            if node.op != "call_function" or not _is_float(node) or self._stays_float(node):
                continue
            if node.target in WEIGHTED and has_own_weight(node):
                self._annotate(node, {_input(node, 0): self._arriving(_input(node, 0)), _input(node, 1): self.weight})
            elif node.target in COMPUTING:
                self._annotate(node, {source: self._arriving(source) for source in _tensor_inputs(node)})
            elif node.target in MOVING or (node.target in CLAMPS and not _fuses_into_producer(node)):
                self._share(node)
        for node in model.graph.nodes:
            if node.op == "call_function" and _is_float(node) and node.target not in MOVING | CLAMPS:
                self._gather(node)
        return model

    def validate(self, model: GraphModule) -> None:
        """Nothing to check: `annotate` only touches ops it knows."""

    def _annotate(self, node: Node, inputs: dict[Node, QuantizationSpecBase | None]) -> None:
        last = _end_of_kernel(node)
        output = self.sigmoid if node.target in SIGMOIDS else self.activation
        node.meta["quantization_annotation"] = QuantizationAnnotation(
            input_qspec_map=inputs,
            output_qspec=output if last is node else None,
            _annotated=True,
        )
        if last is not node:
            last.meta["quantization_annotation"] = QuantizationAnnotation(output_qspec=output, _annotated=True)

    def _share(self, node: Node) -> None:
        """One scale for all inputs and the output, taken from the first input."""
        sources = _tensor_inputs(node)
        if not any(_is_quantized(source) for source in sources):
            return
        shared = SharedQuantizationSpec((sources[0], node))
        inputs: dict[Node, QuantizationSpecBase | None] = dict.fromkeys(sources, shared)
        inputs[sources[0]] = self._arriving(sources[0])
        node.meta["quantization_annotation"] = QuantizationAnnotation(
            input_qspec_map=inputs, output_qspec=shared, _annotated=True
        )

    def _gather(self, node: Node) -> None:
        """Quantize the result of a float operator, before it is moved, if it has several ways into integer kernels."""
        if "quantization_annotation" in node.meta:
            return
        moved, ways = [node], set()
        for source in moved:
            for user in source.users:
                annotation = user.meta.get("quantization_annotation")
                if annotation is not None and source in annotation.input_qspec_map:
                    ways.add((source, user if user.target in MOVING | CLAMPS else None))
                elif annotation is None and user.target in MOVING | CLAMPS and not self._stays_float(user):
                    moved += [user] if user not in moved else []
        if len(ways) > 1:
            node.meta["quantization_annotation"] = QuantizationAnnotation(output_qspec=self.activation, _annotated=True)
            for user in moved[1:]:
                self._share(user)

    def _arriving(self, source: Node) -> QuantizationSpecBase:
        """The grid of an incoming tensor: the one prescribed for its producer, if any."""
        while source.target in MOVING | CLAMPS:
            source = source.all_input_nodes[0]
        return self.sigmoid if source.target in SIGMOIDS else self.activation

    def _stays_float(self, node: Node) -> bool:
        return any(name in self.keep_float for name in scopes(node))


def without_kernel(graph: GraphModule, keep_float: Collection[str]) -> list[Node]:
    """Operators of an annotated graph that would compute in float though no module of `keep_float` holds them."""
    return [
        node
        for node in graph.graph.nodes
        if node.op == "call_function"
        and _is_float(node)
        and node.target not in WEIGHTED | MOVING | CLAMPS | BATCH_NORM
        and "quantization_annotation" not in node.meta
        and not any(name in keep_float for name in scopes(node))
    ]


def _input(node: Node, position: int) -> Node:
    source = node.args[position]
    assert isinstance(source, Node)
    return source


def _tensor_inputs(node: Node) -> list[Node]:
    return [source for source in node.all_input_nodes if _is_float(source)]


def _is_float(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _is_quantized(node: Node) -> bool:
    if node.op == "placeholder":
        return True
    annotation = node.meta.get("quantization_annotation")
    return annotation is not None and annotation.output_qspec is not None


def _sole_user(node: Node) -> Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 else None


def _end_of_kernel(node: Node) -> Node:
    """Last node of the kernel that starts at `node`: [batch norm] [clamp], as long as each is the only user."""
    last = node
    user = _sole_user(last)
    if node.target in WEIGHTED and user is not None and user.target in BATCH_NORM:
        last = user
        user = _sole_user(last)
    if node.target in FUSING and user is not None and user.target in CLAMPS:
        last = user
    return last


def _fuses_into_producer(clamp: Node) -> bool:
    return "quantization_annotation" in clamp.meta


FUSING = WEIGHTED | ADDS
"""Operators whose kernels, in both engines, can apply a clamp."""
