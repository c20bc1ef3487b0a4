"""Bias correction: what weight rounding shifts on average is taken back from the biases.

A rounded weight Wq changes the mean output of channel c by ``(Wq - W)[c] * E[x]``. That much is known from the float
network on the calibration images, so it is subtracted (Nagel et al., "Data-Free Quantization Through Weight
Equalization and Bias Correction", 2019, section 4.2, with measured instead of inferred means). It matters most for
depthwise layers, where few weights make one output and their errors do not average out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Interpreter, Node

from edgekit.ops import WEIGHTED, constant
from edgekit.quantize._kernels import kernels, on_grid


class Calibration(Interpreter):
    """Runs a prepared float graph on images, and keeps the mean input of each weighted operator."""

    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph)
        self.images = 0
        self._sums: dict[str, torch.Tensor] = {}

    def observe(self, image: torch.Tensor) -> torch.Tensor:
        """Run one image of shape (1, 3, H, W); returns the output."""
        self.images += 1
        output: torch.Tensor = self.run(image)
        return output

    def run_node(self, n: Node) -> Any:
        """As `Interpreter`, and remember the inputs of weighted operators."""
        if n.target in WEIGHTED:
            source: Any = n.args[0]
            x = self.env[source]
            mean = x.mean((0, 2, 3)) if x.dim() == 4 else x.flatten(0, -2).mean(0)
            self._sums[n.name] = self._sums.get(n.name, torch.zeros(())) + mean.double()
        return super().run_node(n)

    def means(self) -> dict[str, torch.Tensor]:
        """Mean input by channel, float64, by the name of the weighted node."""
        return {name: total / self.images for name, total in self._sums.items()}


def correct_biases(graph: GraphModule, means: dict[str, torch.Tensor]) -> int:
    """Add ``(W - Wq) * E[x]`` to the biases of a quantized graph, in place, before they are rounded.

    Args:
        graph: after conversion, weights still float (not yet on their grid).
        means: `Calibration.means` of the same network.

    Returns:
        How many layers were corrected: those with a bias.
    """
    count = 0
    with torch.no_grad():
        for kernel in kernels(graph):
            if kernel.bias is None or kernel.node.name not in means:
                continue
            weight = constant(graph, kernel.weight.all_input_nodes[0]).double()
            lost = weight - on_grid(weight, constant(graph, kernel.weight_scales))
            mean = means[kernel.node.name]
            if weight.dim() == 4:
                lost = lost.sum((2, 3))
                groups = len(mean) // lost.shape[1]
                mean = mean.view(groups, -1).repeat_interleave(len(lost) // groups, 0)
            constant(graph, kernel.bias).add_((lost * mean).sum(1).float())
            count += 1
    return count
