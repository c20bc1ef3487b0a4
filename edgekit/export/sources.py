"""The torch graph behind each precision: the files of both formats are made from it and verified against it.

==============  ========================================================================================
``fp16``        float32 arithmetic, weights rounded to half
``weight_only`` float32 arithmetic, weights on their int8 grid (per output channel, symmetric)
``dynamic``     the same weights; inputs of dense layers quantized to 8 bits by each image's range
``int16x8``     int16 activations (symmetric, per tensor, calibrated), the same int8 grid for weights
==============  ========================================================================================

Weights are rounded here, once, so that no two converters round them differently.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e import MinMaxObserver, PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import FixedQParamsQuantizationSpec, QuantizationSpec

from edgekit.graph.exported_program import trace
from edgekit.graph.kernels import kernels, on_grid
from edgekit.graph.ops import ADDS, CLAMPS, QDQ, WEIGHTED, aten, bounds, constant
from edgekit.lower import portable, weights
from edgekit.lower.reparameterize import joined
from edgekit.quantize import faithful
from edgekit.quantize.annotate import Int8Quantizer
from edgekit.quantize.ptq import float_graph
from edgekit.types import Size, shape_of

BOUNDS = {"dynamic": (0.1, 0.95)}
"""Tolerance and agreement of precisions for which those of the recipe are too strict: how an engine rounds a range
that it determines at run time shifts whole steps of every later layer."""


def rounded(module: torch.nn.Module, size: Size, precision: str) -> GraphModule:
    """The float network with batch norm folded and weights rounded; activations stay float.

    Args:
        module: in eval mode; it is not changed.
        size: shape of an image.
        precision: one of `edgekit.types.FLOAT_VARIANTS`.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torchao announces deprecations of its own helpers
        graph: Any = trace(joined(module, size), size).module()
        weights.apply(graph)
        portable.apply(graph)
        weights.fold_batch_norms(graph)
        faithful.check(module, graph, faithful.random_images(size))
        for node in _weighted(graph):
            holder = node.args[1]
            if isinstance(holder, Node) and holder.op == "get_attr":
                weight = constant(graph, holder)
                weight.copy_(weight.half().float() if precision == "fp16" else on_grid(weight, scales(weight)).float())
        graph.recompile()
    return graph  # type: ignore[no-any-return]


def scales(weight: torch.Tensor) -> torch.Tensor:
    """Real value of one int8 step of each output channel; float32 (channels,)."""
    observer = PerChannelMinMaxObserver(
        dtype=torch.int8, quant_min=-127, quant_max=127, qscheme=torch.per_channel_symmetric, ch_axis=0
    )
    observer(weight.detach())
    steps: torch.Tensor = observer.calculate_qparams()[0]
    return steps


def reference(module: torch.nn.Module, size: Size, precision: str) -> GraphModule:
    """What a file with a precision in `edgekit.types.FLOAT_VARIANTS` must compute."""
    graph = rounded(module, size, precision)
    if precision != "dynamic":
        return graph
    for node in _weighted(graph):
        if is_dense(node):
            with graph.graph.inserting_before(node):
                grid = graph.graph.call_function(
                    QDQ.choose_qparams.tensor, (node.args[0], 0, 255, torch.finfo(torch.float32).eps, torch.uint8)
                )
                step, zero = (graph.graph.call_function(_pick, (grid, place)) for place in (0, 1))
                arguments = (step, zero, 0, 255, torch.uint8)
                steps = graph.graph.call_function(QDQ.quantize_per_tensor.tensor, (node.args[0], *arguments))
                value = graph.graph.call_function(QDQ.dequantize_per_tensor.tensor, (steps, *arguments))
            node.update_arg(0, value)
    graph.recompile()
    return graph


def is_dense(node: Node) -> bool:
    """Whether a weighted operator mixes all its input channels: XNNPACK has no dynamic kernels for others."""
    groups: Any = node.args[6] if len(node.args) > 6 else 1
    return bool(groups == 1)


def int16x8(module: torch.nn.Module, size: Size, images: Iterable[torch.Tensor]) -> ExportedProgram:
    """The network with int16 activations and int8 weights, by calibration (min-max), as a program with Q/DQ pairs.

    Symmetric, as TFLite's specification of 16x8 requires
    (https://ai.google.dev/edge/litert/models/quantization_spec); a sigmoid's output scale is 1 / 32768.

    Args:
        module: in eval mode; it is not changed.
        size: shape of an image.
        images: float32 of that shape, preprocessed.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        graph, _ = float_graph(module, size)
        _scale_unit_clamps(graph)
        _fill_constants(graph)
        prepared = prepare_pt2e(graph, _Int16Quantizer())
        for image in images:
            prepared(image.unsqueeze(0))
        converted = convert_pt2e(prepared, fold_quantize=False)
        for kernel in kernels(converted):
            if kernel.bias is not None:  # converters store it in 32 bits, in steps of input times weight
                bias = constant(converted, kernel.bias).detach().abs().double()
                steps = constant(converted, kernel.weight_scales)
                steps.copy_(torch.maximum(steps.double(), bias / (kernel.input_scale * 2**30)).float())
        return torch.export.export(converted, (torch.zeros(1, *shape_of(size)),), strict=False)


class _Int16Quantizer(Int8Quantizer):
    def __init__(self) -> None:
        super().__init__(MinMaxObserver, PerChannelMinMaxObserver)
        self.activation = QuantizationSpec(
            dtype=torch.int16,
            observer_or_fake_quant_ctr=MinMaxObserver,
            quant_min=-32767,
            quant_max=32767,
            qscheme=torch.per_tensor_symmetric,
        )
        self.sigmoid = FixedQParamsQuantizationSpec(
            dtype=torch.int16,
            scale=1 / 32768,
            zero_point=0,
            quant_min=-32768,
            quant_max=32767,
            qscheme=torch.per_tensor_symmetric,
        )


def _weighted(graph: GraphModule) -> list[Node]:
    return [node for node in graph.graph.nodes if node.op == "call_function" and node.target in WEIGHTED]


def _scale_unit_clamps(graph: GraphModule) -> None:
    """``clamp(conv(x), 0, 1)``, a hard-sigmoid, becomes ``relu6(6 conv(x)) / 6``, which has int16 kernels."""
    for node in list(graph.graph.nodes):
        source = node.args[0] if node.target in CLAMPS else None
        if not isinstance(source, Node) or bounds(node) != (0.0, 1.0) or source.target not in WEIGHTED:
            continue
        for holder in source.args[1:3]:
            assert isinstance(holder, Node)
            constant(graph, holder).mul_(6)
        graph.register_buffer(f"{node.name}_sixth", torch.tensor([1 / 6]))
        with graph.graph.inserting_before(node):
            clamped = graph.graph.call_function(aten.relu6.default, (source,))
            sixth = graph.graph.get_attr(f"{node.name}_sixth")
            result = graph.graph.call_function(aten.mul.Tensor, (clamped, sixth))
        clamped.meta, result.meta = dict(node.meta), dict(node.meta)
        sixth.meta["val"] = torch.tensor([1 / 6])
        node.replace_all_uses_with(result)
        graph.graph.erase_node(node)


def _fill_constants(graph: GraphModule) -> None:
    """Give constants of an addition the shape of the other operand: TFLite's int16 ADD does not broadcast."""
    for node in graph.graph.nodes:
        if node.target not in ADDS:
            continue
        for place in (0, 1):
            holder, other = node.args[place], node.args[1 - place]
            if isinstance(holder, Node) and holder.op == "get_attr" and isinstance(other, Node):
                value = constant(graph, holder).expand(other.meta["val"].shape).contiguous()
                name = f"{str(holder.target).replace('.', '_')}_of_{node.name}"
                graph.register_buffer(name, value)
                with graph.graph.inserting_before(node):
                    filled = graph.graph.get_attr(name)
                filled.meta["val"] = value
                node.update_arg(place, filled)
    graph.recompile()


def _pick(pair: Any, place: int) -> Any:
    return pair[place]
