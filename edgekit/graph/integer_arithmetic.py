"""What an integer engine computes: int8 in, int32 accumulators, one float32 multiplication, int8 out.

The Q/DQ graph says where values lie on a grid. Run in float, it differs from an engine in about three of ten thousand
roundings per layer, and a net whose layers amplify noise carries those to every logit. So the reference uses the
engines' arithmetic, ``clamp(rint((sum (x - zx) * w + b) * (sx * sw / so)) + zo)`` as ONNX Runtime's
MLAS and XNNPACK do, with the int32 bias ``b = rint(bias / (sx * sw))`` of TFLite's quantization specification
(https://ai.google.dev/edge/litert/models/quantization_spec).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.nn import functional

from edgekit.graph.exported_program import fold_weights
from edgekit.graph.kernels import Kernel, kernels, on_grid
from edgekit.graph.ops import aten, constant

EXACT = 2**24
"""float32 holds every integer below this, so that a float convolution of integers is exact."""


def integer_graph(graph: GraphModule) -> GraphModule:
    """A copy of a quantized graph in which every weighted kernel computes in integers, exactly as an engine does.

    Takes and returns the same float tensors as `graph`. Operators without weights stay Q/DQ in float.
    """
    result = fold_weights(graph)
    for kernel in kernels(result):
        compute = _kernel_function(result, kernel)
        name = f"_integer_{kernel.node.name}"
        result.add_submodule(name, compute)
        with result.graph.inserting_before(kernel.sink):
            replaced = result.graph.call_module(name, (kernel.source.args[0],))
        kernel.sink.replace_all_uses_with(replaced)
        for dead in (kernel.sink, *kernel.clamps, kernel.node):  # an in-place clamp is not dead code to torch.fx
            result.graph.erase_node(dead)
    result.graph.eliminate_dead_code()
    result.recompile()
    return result


def round_constants(graph: GraphModule) -> None:
    """Put weights and biases on their integer grids, in place, so that no two converters round them differently."""
    with torch.no_grad():
        for kernel in kernels(graph):
            scales = constant(graph, kernel.weight_scales).double()
            weight = constant(graph, kernel.weight.all_input_nodes[0])
            weight.copy_(on_grid(weight, scales).float())
            if kernel.bias is not None:
                bias = constant(graph, kernel.bias)
                bias.copy_(
                    (torch.round(bias.double() / (kernel.input_scale * scales)) * kernel.input_scale * scales).float()
                )


class IntegerKernel(torch.nn.Module):
    """One kernel: int8 (N, C, H, W) for a convolution, (..., C) for a linear layer, in and out."""

    def __init__(self, accumulate: Callable[..., torch.Tensor], kernel: Kernel, **constants: torch.Tensor) -> None:
        super().__init__()
        self.accumulate = accumulate
        self.kernel = kernel
        for name, value in constants.items():
            self.register_buffer(name, value)

    def forward(self, q: torch.Tensor) -> torch.Tensor:
        """Integers in, integers on the output's grid out."""
        weight: Any = self.weight
        total = self.accumulate(q.to(weight.dtype) - self.kernel.input_zero, weight)
        bias: Any = self.bias
        multiplier: Any = self.multiplier
        total = (total.double() + bias).float()
        steps = torch.round(total * multiplier) + self.kernel.output_zero
        return steps.clamp(self.kernel.low, self.kernel.high).to(torch.int8)


def _kernel_function(graph: GraphModule, kernel: Kernel) -> IntegerKernel:
    weight = constant(graph, kernel.weight).float()
    scales = constant(graph, kernel.weight_scales).float()
    if float(weight.abs().flatten(1).sum(1).max()) * 255 >= EXACT:
        weight = weight.double()
    grid = torch.tensor(kernel.input_scale, dtype=torch.float32) * scales
    bias = torch.zeros(len(scales), dtype=torch.float64)
    if kernel.bias is not None:
        exact = kernel.input_scale * scales.double()
        bias = torch.round(constant(graph, kernel.bias).double() / exact)
    multiplier = grid / torch.tensor(kernel.output_scale, dtype=torch.float32)
    shape = (-1,) if kernel.node.target is aten.linear.default else (-1, 1, 1)
    return IntegerKernel(
        _accumulator(kernel.node), kernel, weight=weight, bias=bias.view(shape), multiplier=multiplier.view(shape)
    )


def _accumulator(node: Node) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    if node.target is aten.linear.default:
        return functional.linear
    geometry: Any = node.args[3:]
    return lambda x, weight: functional.conv2d(x, weight, None, *geometry)
