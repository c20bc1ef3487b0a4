"""What an integer engine computes: int8 in, int32 accumulators, one float32 multiplication, int8 out.

The Q/DQ graph says where values lie on a grid. Run as it is, in float, it differs from an engine in about three
roundings of ten thousand per layer, and a net whose layers amplify noise carries those to every logit. So the
reference does the engines' arithmetic, ``clamp(rint((sum (x - zx) * w + b) * (sx * sw / so)) + zo)`` as ONNX Runtime's
MLAS and XNNPACK do, with the int32 bias ``b = rint(bias / (sx * sw))`` of TFLite's quantization specification
(https://ai.google.dev/edge/litert/models/quantization_spec).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.nn import functional

from edgekit.quantize._annotate import CLAMPS, WEIGHTED, aten
from edgekit.quantize._graph import QDQ, QUANTIZE, WEIGHT_QUANTIZE, fold_weights

DEQUANTIZE = QDQ.dequantize_per_tensor.default
WEIGHT_DEQUANTIZE = QDQ.dequantize_per_channel.default
EXACT = 2**24
"""float32 holds every integer below this, so that a float convolution of integers is exact."""


@dataclass(frozen=True)
class Kernel:
    """A weighted operator with Q/DQ pairs around it, and the numbers that describe it."""

    node: Node
    source: Node
    """The dequantize node that feeds it."""
    sink: Node
    """The quantize node behind the kernel."""
    clamps: tuple[Node, ...]
    """The activation between them, if there is one."""
    input_scale: float
    input_zero: int
    weight: Node
    """int8 weight (folded) or the node that quantizes it."""
    weight_scales: Node
    bias: Node | None
    output_scale: float
    output_zero: int
    low: int
    high: int


def integer_graph(graph: GraphModule) -> GraphModule:
    """A copy of a quantized graph in which every weighted kernel computes in integers, exactly as an engine does.

    Takes and gives the same float tensors as `graph`. Operators without weights stay Q/DQ in float.
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


def round_biases(graph: GraphModule) -> None:
    """Put every bias on its int32 grid, in place, so that no two engines round it differently."""
    for kernel in kernels(graph):
        if kernel.bias is not None:
            grid = kernel.input_scale * _constant(graph, kernel.weight_scales).double()
            bias = _constant(graph, kernel.bias)
            with torch.no_grad():
                bias.copy_((torch.round(bias.double() / grid) * grid).float())


def kernels(graph: GraphModule) -> list[Kernel]:
    """The weighted operators that an engine runs in integers."""
    found = []
    for node in graph.graph.nodes:
        if node.op == "call_function" and node.target in WEIGHTED:
            kernel = _match(node)
            if kernel is not None:
                found.append(kernel)
    return found


def _match(node: Node) -> Kernel | None:
    arguments: Any = (*node.args, None)
    source, weight, bias = arguments[:3]
    if source.target is not DEQUANTIZE or weight.target is not WEIGHT_DEQUANTIZE or len(node.users) != 1:
        return None
    last, low, high = node, -torch.inf, torch.inf
    user = next(iter(node.users))
    if user.target in CLAMPS:
        last, (low, high) = user, _bounds(user)
    sink: Any = next(iter(last.users))
    if len(last.users) != 1 or sink.target is not QUANTIZE:
        return None
    scale, zero, qmin, qmax = float(sink.args[1]), *(int(number) for number in sink.args[2:5])
    return Kernel(
        node=node,
        source=source,
        sink=sink,
        clamps=() if last is node else (last,),
        input_scale=float(source.args[1]),
        input_zero=int(source.args[2]),
        weight=weight.args[0],
        weight_scales=weight.args[1],
        bias=bias,
        output_scale=scale,
        output_zero=zero,
        low=qmin if low == -torch.inf else max(qmin, round(low / scale) + zero),
        high=qmax if high == torch.inf else min(qmax, round(high / scale) + zero),
    )


def _bounds(clamp: Node) -> tuple[float, float]:
    if clamp.target in (aten.relu.default, aten.relu_.default):
        return 0.0, torch.inf
    if clamp.target in (aten.relu6.default, aten.relu6_.default):
        return 0.0, 6.0
    hard = clamp.target in (aten.hardtanh.default, aten.hardtanh_.default)
    default: list[Any] = [-1.0, 1.0] if hard else [None, None]
    given: list[Any] = list(clamp.args[1:])
    low, high = given + default[len(given) :]
    low, high = clamp.kwargs.get("min", low), clamp.kwargs.get("max", high)
    return -torch.inf if low is None else float(low), torch.inf if high is None else float(high)


class _Integer(torch.nn.Module):
    """One kernel: int8 (N, C, H, W) or (N, C) in and out."""

    def __init__(self, accumulate: Callable[..., torch.Tensor], kernel: Kernel, **constants: torch.Tensor) -> None:
        super().__init__()
        self.accumulate = accumulate
        self.kernel = kernel
        for name, value in constants.items():
            self.register_buffer(name, value)

    def forward(self, q: torch.Tensor) -> torch.Tensor:
        weight: Any = self.weight
        total = self.accumulate(q.to(weight.dtype) - self.kernel.input_zero, weight)
        shape = (1, -1) + (1,) * (total.dim() - 2)
        bias: Any = self.bias
        multiplier: Any = self.multiplier
        total = (total.double() + bias.view(shape)).float()
        steps = torch.round(total * multiplier.view(shape)) + self.kernel.output_zero
        return steps.clamp(self.kernel.low, self.kernel.high).to(torch.int8)


def _kernel_function(graph: GraphModule, kernel: Kernel) -> _Integer:
    weight = _constant(graph, kernel.weight).float()
    scales = _constant(graph, kernel.weight_scales).float()
    if float(weight.abs().flatten(1).sum(1).max()) * 255 >= EXACT:
        weight = weight.double()
    grid = torch.tensor(kernel.input_scale, dtype=torch.float32) * scales
    bias = torch.zeros(len(scales), dtype=torch.float64)
    if kernel.bias is not None:
        exact = kernel.input_scale * scales.double()
        bias = torch.round(_constant(graph, kernel.bias).double() / exact)
    multiplier = grid / torch.tensor(kernel.output_scale, dtype=torch.float32)
    return _Integer(_accumulator(kernel.node), kernel, weight=weight, bias=bias, multiplier=multiplier)


def _accumulator(node: Node) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    if node.target is aten.linear.default:
        return functional.linear
    geometry: Any = node.args[3:]
    return lambda x, weight: functional.conv2d(x, weight, None, *geometry)


def _constant(graph: GraphModule, node: Node) -> torch.Tensor:
    if node.target is WEIGHT_QUANTIZE:
        raise ValueError("fold the weights first")
    owner: Any = graph
    for part in str(node.target).split("."):
        owner = getattr(owner, part)
    assert isinstance(owner, torch.Tensor)
    return owner
