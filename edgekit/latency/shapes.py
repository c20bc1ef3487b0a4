"""The geometry of a network's weighted layers: all that a latency model knows of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["dense", "pointwise", "depthwise", "linear"]
KINDS: tuple[Kind, ...] = ("dense", "pointwise", "depthwise", "linear")
VECTOR = 16
"""Channels that a vector instruction computes at once: kernels may be slow with fewer."""


@dataclass(frozen=True)
class LayerShape:
    """One convolution or linear layer, for one image."""

    name: str
    """Its module in the torch network."""
    kind: Kind
    """"dense" is every convolution that is neither 1x1 nor depthwise."""
    inputs: int
    """Channels, also of a depthwise convolution, whose `inputs` and `outputs` are equal."""
    outputs: int
    kernel: int
    """Height times width."""
    in_pixels: int
    """Positions of the input; 1 for a linear layer on a vector."""
    pixels: int
    """Positions of the output, in all calls of a layer that is used several times."""
    groups: int = 1
    """As many as channels if it is depthwise."""

    @property
    def weights(self) -> int:
        """Without biases."""
        return self.kernel * self.inputs // self.groups * self.outputs

    @property
    def macs(self) -> int:
        """Multiply-adds."""
        return self.weights * self.pixels
