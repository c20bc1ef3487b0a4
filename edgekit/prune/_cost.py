"""Multiply-adds and parameters of a network whose groups of channels get narrower, without building it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgekit.prune.groups import Group
from edgekit.types import Size, shape_of


@dataclass
class _Layer:
    """One convolution, linear layer or batch norm."""

    positions: int
    """Pixels of the output, for one image; of all outputs of a layer that is used several times."""
    kernel: int
    """Multiply-adds per output pixel, input channel and output channel."""
    inputs: int
    """1 for depthwise convolutions and batch norms."""
    outputs: int
    extra: int
    """Parameters per output channel without multiply-adds: bias, or scale and shift."""
    writes: dict[str, int] = field(default_factory=dict)
    """How many of its output channels are removed with each channel of a group (by head)."""
    reads: dict[str, int] = field(default_factory=dict)


class Cost:
    """What a network costs with fewer channels.

    Args:
        module: the network.
        groups: its groups.
        size: shape of an image.
    """

    def __init__(self, module: nn.Module, groups: Sequence[Group], size: Size) -> None:
        self._layers = _layers(module, size)
        for group in groups:
            for member in group.members:
                layer = self._layers.get(member.layer)
                if layer is not None:
                    side = layer.reads if member.role == "reads" else layer.writes
                    side[group.head] = side.get(group.head, 0) + len(member.channels) // group.channels

    def __call__(self, kind: str, gone: Mapping[str, int]) -> int:
        """Multiply-adds ("macs") or parameters of all convolutions, linear layers and batch norms.

        Args:
            kind: which of the two.
            gone: how many channels were removed, by the group's head.
        """
        return sum(_of(layer, kind, gone) for layer in self._layers.values())


def _of(layer: _Layer, kind: str, gone: Mapping[str, int]) -> int:
    outputs = layer.outputs - sum(gone.get(head, 0) * count for head, count in layer.writes.items())
    inputs = layer.inputs - sum(gone.get(head, 0) * count for head, count in layer.reads.items())
    products = layer.kernel * inputs * outputs
    return products * layer.positions if kind == "macs" else products + layer.extra * outputs


def _layers(module: nn.Module, size: Size) -> dict[str, _Layer]:
    names = {child: name for name, child in module.named_modules()}
    layers: dict[str, _Layer] = {}

    def note(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        before = layers[names[layer]].positions if names[layer] in layers else 0
        bias = int(layer.bias is not None)
        if isinstance(layer, nn.Conv2d):
            positions = before + math.prod(output.shape[2:])
            kernel = math.prod(layer.kernel_size)
            layers[names[layer]] = _Layer(
                positions, kernel, layer.in_channels // layer.groups, layer.out_channels, bias
            )
        elif isinstance(layer, nn.Linear):
            positions = before + output.numel() // layer.out_features
            layers[names[layer]] = _Layer(positions, 1, layer.in_features, layer.out_features, bias)
        else:
            layers[names[layer]] = _Layer(0, 0, 1, layer.num_features, 2 * bias)

    hooks = [
        child.register_forward_hook(note) for child in names if isinstance(child, nn.Conv2d | nn.Linear | _BatchNorm)
    ]
    training = module.training
    with torch.no_grad():
        module.eval()(torch.zeros(1, *shape_of(size), device=next(module.parameters()).device))
    module.train(training)
    for hook in hooks:
        hook.remove()
    return layers
