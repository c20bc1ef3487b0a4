"""Adaptive rounding: each weight goes up or down so that the layer's output changes least on the calibration images.

The objective is AdaRound's (Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", 2020,
equation 12): minimise ``e' H e``, with ``e`` the rounding errors of one output channel and ``H`` the second moments of
the layer's inputs; each weight may only take one of its two neighbours on the grid. AdaRound relaxes the choice and
trains it. Here it is solved directly, which needs neither a step size nor random numbers: the weights are rounded one
by one while the others compensate for the error (Frantar et al., "GPTQ", 2022), then single weights are moved as long
as that lowers the objective. If bias correction absorbs the mean error, ``H`` is the covariance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.nn import functional

from edgekit.graph.kernels import kernels, on_grid
from edgekit.graph.ops import aten, constant, scopes

DAMPING = 0.01
"""Share of the mean variance added to each variance, so that directions absent from the images still have a cost."""
SWEEPS = 4
ENOUGH = 4
"""Least input vectors per weight of an output channel; with fewer, a layer is rounded to nearest: roundings that suit
the few directions seen would be worse in all others. A classifier sees one vector per image."""
WIDEST = 2304
"""Most inputs of one output channel; with more, a layer is rounded to nearest: the size of `H` is their square."""


class Moments:
    """Running sums over the inputs of one weighted operator, float64; their size does not grow with the images.

    Attributes:
        first: (G, n) sums: G groups, n inputs per output channel.
        second: (G, n, n) sums of products.
        count: how many input vectors there were.
    """

    def __init__(self) -> None:
        self.first: Tensor = torch.zeros(())
        self.second: Tensor = torch.zeros(())
        self.count = 0

    def add(self, vectors: Tensor) -> None:
        """Add vectors of shape (G, n, P)."""
        self.first = self.first + vectors.sum(2, dtype=torch.float64)
        self.second = self.second + (vectors @ vectors.transpose(1, 2)).double()
        self.count += vectors.shape[2]

    def covariance(self) -> Tensor:
        """Covariance, (G, n, n)."""
        mean = self.first / self.count
        return self.second / self.count - mean.unsqueeze(2) * mean.unsqueeze(1)

    def uncentred(self) -> Tensor:
        """Mean products without subtracting the means, (G, n, n)."""
        return self.second / self.count


def vectors(node: Node, x: Tensor, weight_shape: tuple[int, ...]) -> Tensor | None:
    """What the output channels of a weighted operator multiply with their weights: (G, n, P).

    Args:
        node: convolution or linear layer.
        x: its input, (1, C, H, W) or (..., C).
        weight_shape: shape of its weight.

    Returns:
        The vectors, or None if n exceeds `WIDEST` or the padding is given by name.
    """
    width = 1
    for side in weight_shape[1:]:
        width *= side
    if width > WIDEST or node.target is aten.conv2d.padding:
        return None
    if node.target is aten.linear.default:
        return x.reshape(1, -1, weight_shape[1]).transpose(1, 2)
    arguments: Any = (*node.args[3:], *[None] * 4)
    stride, padding, dilation, groups = arguments[:4]
    groups = groups or 1
    kernel = weight_shape[2:]
    if kernel == (1, 1) and not any(padding or [0]):
        strides = stride or [1, 1]
        columns = x[:, :, :: strides[0], :: strides[-1]].flatten(2)
    else:
        columns = functional.unfold(x, kernel, dilation or 1, padding or 0, stride or 1)
    return columns.reshape(groups, width, -1)


def round_weights(graph: GraphModule, moments: Mapping[str, Moments], centred: bool) -> dict[str, bool]:
    """Put the weights of a converted graph on their int8 grids, in place.

    Args:
        graph: after `settle`: weights still float, scales final.
        moments: moments of the inputs, by the name of the weighted node; layers without any are rounded to nearest.
        centred: whether bias correction will absorb the mean error, so that only the rest counts.

    Returns:
        Whether rounding was adaptive, by layer.
    """
    adaptive: dict[str, bool] = {}
    with torch.no_grad():
        for kernel in kernels(graph):
            weight, scales = constant(graph, kernel.weight.all_input_nodes[0]), constant(graph, kernel.weight_scales)
            known = moments.get(kernel.node.name)
            if known is not None and known.count < ENOUGH * known.first.shape[1]:
                known = None
            adaptive[(scopes(kernel.node) or (kernel.node.name,))[-1]] = known is not None
            if known is None:
                weight.copy_(on_grid(weight, scales).float())
            else:
                centre = centred and kernel.bias is not None
                weight.copy_(adapt(weight, scales, known.covariance() if centre else known.uncentred()).float())
    return adaptive


def adapt(weight: Tensor, scales: Tensor, hessian: Tensor) -> Tensor:
    """Round a weight to its int8 grid, adapted to the inputs.

    Args:
        weight: (O, ...), any float.
        scales: (O,), of the grid: per output channel, symmetric, -127..127.
        hessian: (G, n, n), second moments or covariance of the inputs of each group.

    Returns:
        float64, of the shape of `weight`; each value is a grid point next to the weight.
    """
    groups, width = hessian.shape[:2]
    steps = (weight.double() / scales.double().view(-1, *[1] * (weight.dim() - 1))).reshape(groups, -1, width)
    down = steps.floor().clamp(-127, 127)
    up = steps.ceil().clamp(-127, 127)
    mean = hessian.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-30)
    damped = hessian + (DAMPING * mean).view(-1, 1, 1) * torch.eye(width, dtype=torch.float64)
    nearest = steps.round().clamp(-127, 127)
    fed = _descend(_with_feedback(steps, down, up, damped), steps, down, up, damped)
    near = _descend(nearest, steps, down, up, damped)
    better = objective(fed, steps, damped) < objective(near, steps, damped)
    rounded = torch.where(better.unsqueeze(2), fed, near)
    return (rounded.reshape(weight.shape) * scales.double().view(-1, *[1] * (weight.dim() - 1))).double()


def objective(rounded: Tensor, steps: Tensor, hessian: Tensor) -> Tensor:
    """``e' H e`` by output channel: (G, O / G)."""
    error = rounded - steps
    return ((error @ hessian) * error).sum(2)


def _with_feedback(steps: Tensor, down: Tensor, up: Tensor, hessian: Tensor) -> Tensor:
    """Round input by input; the inputs not yet rounded compensate for the error in the output."""
    inverse = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    left = steps.clone()
    rounded = torch.empty_like(steps)
    for place in range(steps.shape[2]):
        value = left[:, :, place]
        rounded[:, :, place] = torch.minimum(torch.maximum(value.round(), down[:, :, place]), up[:, :, place])
        error = (value - rounded[:, :, place]) / inverse[:, place, place].unsqueeze(1)
        left[:, :, place:] -= error.unsqueeze(2) * inverse[:, place, place:].unsqueeze(1)
    return rounded


def _descend(rounded: Tensor, steps: Tensor, down: Tensor, up: Tensor, hessian: Tensor) -> Tensor:
    """Move weights, one input at a time in all output channels, as long as the objective falls."""
    rounded = rounded.clone()
    slope = (rounded - steps) @ hessian
    for _ in range(SWEEPS):
        moved = False
        for place in range(steps.shape[2]):
            curvature = hessian[:, place, place].unsqueeze(1)
            wanted = (rounded[:, :, place] - slope[:, :, place] / curvature).round()
            wanted = torch.minimum(torch.maximum(wanted, down[:, :, place]), up[:, :, place])
            step = wanted - rounded[:, :, place]
            if bool(step.any()):
                moved = True
                rounded[:, :, place] = wanted
                slope += step.unsqueeze(2) * hessian[:, place].unsqueeze(1)
        if not moved:
            break
    return rounded
