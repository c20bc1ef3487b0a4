"""What quantizing each layer alone costs the network, measured on real images.

One layer at a time gets its int8 weights, its output grid and bias correction for its own weight rounding (see
`edgekit.quantize._correct`); everything else stays float. The noise that reaches the logits is then that layer's own,
not hidden by the noise of others, and shows which layers to keep in float. (The reverse, restoring one layer of a
quantized network, says little while the rest is bad.) Small noises add up in power to that of the whole network. Layers
before the quantized one are not computed again, so a network of n layers costs less than n / 2 inferences per image.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.utils import _fuse_conv_bn_

from edgekit.graph.kernels import on_grid
from edgekit.graph.logits import classes
from edgekit.graph.ops import (
    CLAMPS,
    COMPUTING,
    DEQUANTIZE,
    QUANTIZE,
    WEIGHT_DEQUANTIZE,
    WEIGHTED,
    aten,
    constant,
    scopes,
)
from edgekit.quantize._replay import Replay
from edgekit.quantize.annotate import FUSING
from edgekit.types import Sensitivity

SILENT = 1e-15
"""Noise below this share of the signal counts as this share (150 dB), the limit of float32."""


@dataclass
class _Layer:
    """What to change in the float graph to quantize one layer."""

    weights: dict[Node, torch.Tensor] = field(default_factory=dict)
    """Weights on their int8 grid, by operator."""
    grids: dict[Node, tuple[float, int, int, int]] = field(default_factory=dict)
    """(scale, zero point, quant_min, quant_max) of outputs, by the node at the end of the kernel."""
    noise: float = 0.0
    agreed: int = 0
    constants: dict[Node, torch.Tensor] = field(default_factory=dict)
    """Weights and biases, by the node that feeds them to the operator."""


def sensitivity(
    original: GraphModule, quantized: GraphModule, images: Sequence[torch.Tensor]
) -> tuple[Sensitivity, ...]:
    """Quantize each layer alone and compare the logits with those of the float network.

    A layer is a weighted operator with the activation fused into it, or another module without layers inside (a
    standalone activation, a pool). Additions and products in a block's own code belong to no layer.

    Args:
        original: the float graph that was quantized: rewritten and equalized, not corrected or rounded, with or without
            the observers of `prepare_pt2e`, which are ignored. It is not changed.
        quantized: the converted graph; its weights may be on their grid or still float.
        images: float32 tensors of shape (channels, H, W), preprocessed; 16 to 32 are enough to rank layers.

    Returns:
        One row per layer, the lowest SQNR (in dB) first; layers that stay float are left out.

    Raises:
        ValueError: the graphs are not of the same network, or there are no images.
    """
    if not len(images):
        raise ValueError("sensitivity: no images")
    graph = copy.deepcopy(original)
    _fuse_conv_bn_(graph)
    layers = _layers(graph, quantized)
    network = _Network(graph)
    signal = SILENT
    with torch.no_grad():
        _take_back(network, layers.values(), images)
        changed = {name: _downstream(graph, layer) for name, layer in layers.items()}
        for image in images:
            network.grids = {}
            exact = network.run(image.unsqueeze(0)).double()
            known = dict(network.env)
            signal += float(exact.square().sum())
            for name, layer in layers.items():
                before = {node: value for node, value in known.items() if node not in changed[name]}
                network.grids = layer.grids
                got = network.run(initial_env=before | layer.constants).double()
                layer.noise += float((got - exact).square().sum())
                layer.agreed += int(classes(got) == classes(exact))
    rows = [
        Sensitivity(name, 10 * math.log10(signal / max(layer.noise, signal * SILENT)), layer.agreed / len(images))
        for name, layer in layers.items()
    ]
    return tuple(sorted(rows, key=lambda row: row.sqnr_db))


class _Network(Replay):
    """Runs a float graph and rounds the outputs of `grids`. Keeps every value in `env`."""

    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph)
        self.grids: dict[Node, tuple[float, int, int, int]] = {}

    def run_node(self, n: Node) -> Any:
        """As `Replay`."""
        value = super().run_node(n)
        grid = self.grids.get(n)
        return value if grid is None else torch.fake_quantize_per_tensor_affine(value, *grid)


def _take_back(network: _Network, layers: Iterable[_Layer], images: Sequence[torch.Tensor]) -> None:
    """Fill in `_Layer.constants`: weights, and biases minus the mean output shift from weight rounding."""
    shifts: dict[Node, torch.Tensor] = {}
    for image in images:
        network.run(image.unsqueeze(0))
        for layer in layers:
            for node, weight in layer.weights.items():
                x, exact, *rest = (network.env[a] if isinstance(a, Node) else a for a in node.args)
                extra: Any = node.target(x, weight - exact, None, *rest[1:])  # type: ignore[operator]
                last = node.target is aten.linear.default
                mean = extra.flatten(0, -2).mean(0) if last else extra.mean((0, 2, 3))
                shifts[node] = shifts.get(node, torch.zeros(())) + mean / len(images)
    for layer in layers:
        for node, weight in layer.weights.items():
            feeds: Any = (*node.args, None)
            layer.constants[feeds[1]] = weight
            if feeds[2] is not None:
                layer.constants[feeds[2]] = network.env[feeds[2]] - shifts[node]


def _layers(original: GraphModule, quantized: GraphModule) -> dict[str, _Layer]:
    ours, theirs = _operators(original), _operators(quantized)
    if [node.target for node in ours] != [node.target for node in theirs]:
        raise ValueError("sensitivity: the float and the quantized graph are not of the same network")
    layers: dict[str, _Layer] = {}
    weighted = set()
    for node, twin in zip(ours, theirs, strict=True):
        name = (scopes(twin) or scopes(node) or (node.name,))[-1]
        layer = _Layer()
        if node.target in WEIGHTED:
            weighted.add(name)
            weight = twin.args[1]
            if weight.target is WEIGHT_DEQUANTIZE:
                scales = constant(quantized, weight.args[1])
                layer.weights[node] = on_grid(constant(quantized, _holder(weight)), scales).float()
        sink: Any = next(iter(_end(twin).users))
        if sink.target is QUANTIZE and twin.args[0].target is DEQUANTIZE:  # otherwise only its reader needs the grid
            scale, zero, low, high = sink.args[1:5]
            layer.grids[_end(node)] = (float(scale), int(zero), int(low), int(high))
        if layer.weights or layer.grids:
            whole = layers.setdefault(name, _Layer())
            whole.weights |= layer.weights
            whole.grids |= layer.grids
    return {
        name: layer
        for name, layer in layers.items()
        if name in weighted or not any(other.startswith(f"{name}.") for other in layers)
    }


def _operators(graph: GraphModule) -> list[Any]:
    return [node for node in graph.graph.nodes if node.op == "call_function" and node.target in WEIGHTED | COMPUTING]


def _holder(node: Node) -> Node:
    while node.op != "get_attr":
        node = node.all_input_nodes[0]
    return node


def _end(node: Node) -> Node:
    """The clamp that a kernel applies to its own output, or the operator itself."""
    users = list(node.users)
    return users[0] if node.target in FUSING and len(users) == 1 and users[0].target in CLAMPS else node


def _downstream(graph: GraphModule, layer: _Layer) -> set[Node]:
    """Everything that is computed from what a layer changes."""
    reached = {user for node in layer.constants for user in node.users} | set(layer.grids)
    for node in graph.graph.nodes:
        if any(source in reached for source in node.all_input_nodes):
            reached.add(node)
    return reached
