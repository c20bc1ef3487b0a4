"""Which rule decides each tensor's range: the recipe's, the layer's own, or the one that costs least (`auto`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgekit.config.recipe import QuantizeSection
from edgekit.errors import InputError
from edgekit.graph.ops import CLAMPS, MOVING, scopes
from edgekit.quantize import port
from edgekit.quantize._replay import Replay, first_tensor
from edgekit.quantize.histogram import Cost, Histogram, Range, grid
from edgekit.quantize.ranges import minmax

TRIALS = 4
"""Images on which `auto` measures the cost of rules."""


def observers(prepared: GraphModule) -> dict[Histogram, list[Node]]:
    """The observed tensors whose range must be decided, and the nodes at which each is observed."""
    nodes: dict[Histogram, list[Node]] = {}
    for node in prepared.graph.nodes:
        module = prepared.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, Histogram):
            nodes.setdefault(module, []).append(node)
    return nodes


def title(node: Node) -> str:
    """Name for people: the layer that computes what `node` observes."""
    source: Any = node.args[0]
    if source.op == "placeholder":
        return "input"
    kernel = _kernel(source)
    return (scopes(kernel) or (kernel.name,))[-1]


def decide(prepared: GraphModule, section: QuantizeSection, pixels: Tensor, images: Sequence[Tensor]) -> dict[str, str]:
    """Set the range of every tensor of a calibrated graph, in place.

    The network's input takes the known range of `pixels`. Its output keeps its full range unless the recipe names the
    layer: clipping the largest logit would clip the answer.

    Args:
        prepared: after calibration.
        section: `range` and `ranges`.
        pixels: every value that the input can take, any shape.
        images: for `auto`, float32 (3, H, W); the first `TRIALS` are used.

    Returns:
        Rule by tensor, in the order of execution; empty if all are the same.

    Raises:
        InputError: a layer of `ranges` has no quantized output.
    """
    common: port.Rule = port.rule(section.range)
    special = {layer: port.rule(rule, f"quantize.ranges.{layer}") for layer, rule in section.ranges.items()}
    trial = _Trial(prepared, images[:TRIALS])
    used: set[str] = set()
    chosen: dict[str, str] = {}
    for seen, nodes in observers(prepared).items():
        source: Any = nodes[0].args[0]
        named = [layer for layer in reversed(scopes(_kernel(source))) if layer in special]
        used.update(named)
        if source.op == "placeholder":
            seen.decided = Range(float(pixels.min()), float(pixels.max()), "input")
            continue
        rule: port.Rule = minmax if any(_is_output(node) for node in nodes) else common
        chooser = special[named[0]] if named else rule
        seen.decided = chooser.limits(seen.mirrored() if seen.symmetric else seen, trial.cost(nodes[0], seen.symmetric))
        name = title(nodes[0])
        chosen[name if name not in chosen else f"{name} ({source.name})"] = seen.decided.rule
    for layer in special:
        if layer not in used:
            raise InputError(
                f'quantize.ranges: "{layer}" computes nothing that is quantized; '
                "name a convolution, a linear layer, or a block with one"
            )
    return chosen if special or section.range == "auto" else {}


def _kernel(source: Node) -> Node:
    """The operator that computes a tensor, skipping a clamp after it."""
    while source.target in CLAMPS and isinstance(source.args[0], Node):
        source = source.args[0]
        if source.op == "call_module":  # a clamp on its own, after an observer
            break
    return source


def _is_output(node: Node) -> bool:
    """Whether the network returns what `node` observes, moved or not."""
    return any(
        user.op == "output" or ((user.target in MOVING or user.op == "call_module") and _is_output(user))
        for user in node.users
    )


class _Trial:
    """Runs a few images through the float network to measure what one tensor's grid does to the output."""

    def __init__(self, prepared: GraphModule, images: Sequence[Tensor]) -> None:
        self.graph = prepared
        self.images = images
        self._runs: list[tuple[dict[Node, Any], Tensor]] = []
        self.replay = Replay(prepared)

    def cost(self, node: Node, symmetric: bool) -> Cost:
        """Squared error of the output as a function of the range of the tensor observed at `node`."""

        def measure(low: float, high: float) -> float:
            if not self._runs:  # most rules never ask
                for image in self.images:
                    values = self.replay.values(image.unsqueeze(0))
                    self._runs.append((values, first_tensor(values[self.replay.last])))
            scale, zero = grid(low, high, symmetric=symmetric)
            total = 0.0
            for values, exact in self._runs:
                rounded = torch.fake_quantize_per_tensor_affine(values[node], scale, zero, -128, 127)
                total += float((self.replay.rerun(values, node, rounded) - exact).double().square().sum())
            return total

        return measure
