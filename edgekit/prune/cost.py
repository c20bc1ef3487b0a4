"""Multiply-adds, parameters and layers of a network whose groups of channels get narrower, without building it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgekit.latency.shapes import Kind, LayerShape
from edgekit.prune.groups import Group
from edgekit.types import Size, shape_of


@dataclass
class _Layer:
    """One convolution, linear layer or batch norm."""

    kind: Kind | None
    """None for a batch norm."""
    in_positions: int
    positions: int
    """Pixels of the output, for one image; of all outputs of a layer that is used several times."""
    kernel: int
    """Multiply-adds per output pixel, input channel and output channel."""
    inputs: int
    """That each output reads: 1 for depthwise convolutions and batch norms."""
    outputs: int
    groups: int
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
        size: shape of an image; another one than the groups were found with gives the cost at that resolution.
    """

    def __init__(self, module: nn.Module, groups: Sequence[Group], size: Size) -> None:
        self._layers = _layers(module, size)
        for group in groups:
            for member in group.members:
                layer = self._layers.get(member.layer)
                if layer is not None:
                    side = layer.reads if member.role == "reads" else layer.writes
                    side[group.head] = side.get(group.head, 0) + len(member.channels) // group.channels
        self._weighted = [(name, layer) for name, layer in self._layers.items() if layer.kind]
        self._heads = {group.head: place for place, group in enumerate(groups)}
        self._removed = np.zeros((2 * len(self._weighted), len(groups)))  # channels of each side, per channel of a head
        for row, (_, layer) in enumerate(self._weighted):
            for head, count in layer.writes.items():
                self._removed[2 * row + 1, self._heads[head]] = count
            for head, count in (layer.writes if layer.kind == "depthwise" else layer.reads).items():
                self._removed[2 * row, self._heads[head]] = count
        self._made: list[dict[tuple[int, int], LayerShape]] = [{} for _ in self._weighted]

    def __call__(self, kind: str, gone: Mapping[str, int]) -> int:
        """Multiply-adds ("macs") or parameters of all convolutions, linear layers and batch norms.

        Args:
            kind: which of the two.
            gone: how many channels were removed, by the group's head.
        """
        return sum(_of(layer, kind, gone) for layer in self._layers.values())

    def shapes(self, gone: Mapping[str, int]) -> tuple[LayerShape, ...]:
        """The convolutions and linear layers that stay, in the order in which they run first.

        Args:
            gone: how many channels were removed, by the group's head.
        """
        vector = np.zeros(len(self._heads))
        for head, count in gone.items():
            vector[self._heads[head]] = count
        lost = (self._removed @ vector).astype(int).tolist()
        shapes = []
        for (name, layer), made, fewer in zip(
            self._weighted, self._made, zip(lost[::2], lost[1::2], strict=True), strict=True
        ):
            if fewer not in made:
                made[fewer] = _shape(name, layer, *fewer)
            shapes.append(made[fewer])
        return tuple(shapes)


def _of(layer: _Layer, kind: str, gone: Mapping[str, int]) -> int:
    outputs = layer.outputs - sum(gone.get(head, 0) * count for head, count in layer.writes.items())
    inputs = layer.inputs - sum(gone.get(head, 0) * count for head, count in layer.reads.items())
    products = layer.kernel * inputs * outputs
    return products * layer.positions if kind == "macs" else products + layer.extra * outputs


def _shape(name: str, layer: _Layer, fewer_inputs: int, fewer_outputs: int) -> LayerShape:
    assert layer.kind is not None
    inputs, outputs = layer.inputs * layer.groups - fewer_inputs, layer.outputs - fewer_outputs
    groups = outputs if layer.kind == "depthwise" else layer.groups
    return LayerShape(name, layer.kind, inputs, outputs, layer.kernel, layer.in_positions, layer.positions, groups)


def _layers(module: nn.Module, size: Size) -> dict[str, _Layer]:
    names = {child: name for name, child in module.named_modules()}
    layers: dict[str, _Layer] = {}

    def note(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        earlier = layers.get(names[layer])
        bias = int(layer.bias is not None)
        if isinstance(layer, _BatchNorm):
            layers[names[layer]] = _Layer(None, 0, 0, 0, 1, layer.num_features, 1, 2 * bias)
            return
        if isinstance(layer, nn.Conv2d):
            source = inputs[0] if inputs else output  # if it was passed by name
            before, after = (math.prod(tensor.shape[2:]) for tensor in (source, output))
            kernel, each = math.prod(layer.kernel_size), layer.in_channels // layer.groups
            made = _Layer(_kind(layer), before, after, kernel, each, layer.out_channels, layer.groups, bias)
        else:
            after = output.numel() // layer.out_features
            made = _Layer("linear", after, after, 1, layer.in_features, layer.out_features, 1, bias)
        if earlier:
            made.in_positions += earlier.in_positions
            made.positions += earlier.positions
        layers[names[layer]] = made

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


def _kind(layer: nn.Conv2d) -> Kind:
    if layer.groups > 1 and layer.groups == layer.in_channels == layer.out_channels:
        return "depthwise"
    return "pointwise" if math.prod(layer.kernel_size) == 1 and layer.groups == 1 else "dense"
