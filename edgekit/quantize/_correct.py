"""Bias correction: the mean output shift that weight rounding causes is subtracted from the biases.

A rounded weight Wq changes the mean output of channel c by ``(Wq - W)[c] * E[x]``. The float network on the calibration
images gives E[x], so the shift is subtracted (Nagel et al., "Data-Free Quantization Through Weight
Equalization and Bias Correction", 2019, section 4.2, with measured instead of inferred means). It matters most for
depthwise layers, where few weights make one output and their errors do not average out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from edgekit.graph.kernels import kernels
from edgekit.graph.ops import WEIGHTED, aten, constant
from edgekit.quantize._rounding import Moments, vectors


class Calibration(Interpreter):
    """Runs a prepared float graph on images and keeps, for each weighted operator, what corrections need.

    Args:
        graph: after `prepare_pt2e`.
        moments: whether to keep the second moments of inputs, for adaptive rounding.
    """

    def __init__(self, graph: GraphModule, moments: bool = False) -> None:
        super().__init__(graph)
        self.graph_module = graph
        self.images = 0
        self.sums: dict[str, Tensor] = {}
        """Sum of the mean input by channel, float64, by node."""
        self.moments: dict[str, Moments] = {}
        self._moments = moments

    def observe(self, image: Tensor) -> Tensor:
        """Run one image of shape (1, 3, H, W); returns the output."""
        output: Tensor = self.run(image)
        self.images += 1
        return output

    def run_node(self, n: Node) -> Any:
        """Run a node as `Interpreter` does, and record the inputs of weighted operators."""
        if n.target in WEIGHTED:
            arguments: Any = n.args
            x = self.env[arguments[0]]
            self.sums[n.name] = self.sums.get(n.name, torch.zeros(())) + _by_channel(n, x)
            if self._moments:
                columns = vectors(n, x, tuple(self.env[arguments[1]].shape))
                if columns is not None:
                    self.moments.setdefault(n.name, Moments()).add(columns)
        return super().run_node(n)

    def means(self) -> dict[str, Tensor]:
        """Mean input by channel, float64, by the name of the weighted node."""
        return {name: total / self.images for name, total in self.sums.items()}


def _by_channel(node: Node, x: Tensor) -> Tensor:
    """A linear layer has its channels last, whatever the rank (ConvNeXt's take (N, H, W, C))."""
    mean = x.flatten(0, -2).mean(0) if node.target is aten.linear.default else x.mean((0, 2, 3))
    return mean.double()


def weights(graph: GraphModule) -> dict[str, Tensor]:
    """Copies of the weights of a converted graph, by the name of the weighted node."""
    return {each.node.name: constant(graph, each.weight.all_input_nodes[0]).clone() for each in kernels(graph)}


def correct_biases(graph: GraphModule, exact: Mapping[str, Tensor], means: Mapping[str, Tensor]) -> int:
    """Add ``(W - Wq) * E[x]`` to the biases of a quantized graph, in place, before they are rounded.

    Args:
        graph: after conversion, with weights on their grid and biases not yet rounded.
        exact: its `weights` before rounding.
        means: `Calibration.means` of the same network.

    Returns:
        How many layers were corrected; only layers with a bias are.
    """
    count = 0
    with torch.no_grad():
        for kernel in kernels(graph):
            if kernel.bias is None or kernel.node.name not in means:
                continue
            lost = exact[kernel.node.name].double() - constant(graph, kernel.weight.all_input_nodes[0]).double()
            mean = means[kernel.node.name]
            if lost.dim() == 4:
                lost = lost.sum((2, 3))
                groups = len(mean) // lost.shape[1]
                mean = mean.view(groups, -1).repeat_interleave(len(lost) // groups, 0)
            constant(graph, kernel.bias).add_((lost * mean).sum(1).float())
            count += 1
    return count
