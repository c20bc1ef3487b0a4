"""Does the float graph that is compressed compute what the user's network does? Asked in every run, on real images."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from edgekit.errors import Shortfall
from edgekit.graph.eager import FLOAT_NOISE
from edgekit.graph.exported_program import trace
from edgekit.graph.ops import BATCH_NORM, scopes
from edgekit.lower.reparameterize import joined
from edgekit.quantize._replay import Replay, Values, first_tensor
from edgekit.types import Size, shape_of

IMAGES = 4
RANDOM = 2


def check(module: nn.Module, graph: GraphModule, images: Iterable[Tensor]) -> None:
    """Compare a float graph with the network it was made from, on the first few images.

    Args:
        module: the user's network, in eval mode.
        graph: exported from it for one image, folded and rewritten.
        images: float32 (C, H, W), preprocessed as the network expects.

    Raises:
        Shortfall: the outputs differ by more than float noise; names the first layer that does.
    """
    taken = next(node.meta["val"].shape[1:] for node in graph.graph.nodes if node.op == "placeholder")
    for image in islice(images, IMAGES):
        if image.shape != taken:  # calibration refuses it by name
            continue
        batch = image.unsqueeze(0)
        with torch.no_grad():
            exact, got = module(batch), first_tensor(graph(batch))
        if bool(torch.isfinite(exact).all()) and not (gap := _gap(exact, got)) <= FLOAT_NOISE:
            raise Shortfall(
                f"lower: the float graph to compress does not compute what the network does (outputs differ by "
                f"{gap:.1g} of the largest), first in {first(module, graph, image)}: write that layer in another way, "
                "or report it; no file would be right"
            )


def random_images(size: Size) -> list[Tensor]:
    """Images for `check` where there are no real ones: float32 of that shape, -1..1."""
    return list(torch.rand(RANDOM, *shape_of(size), generator=torch.Generator().manual_seed(0)) * 2 - 1)


def first(module: nn.Module, graph: GraphModule, image: Tensor) -> str:
    """The first layer whose result differs: in the export from the network's, else in the graph from the export's."""
    batch = image.unsqueeze(0)
    channels, height, width = image.shape
    module = joined(module, (channels, height, width))  # a copy
    plain = trace(module, (channels, height, width)).module()
    with torch.no_grad():
        wanted = Replay(plain).values(batch)
        exported = _by_layer(wanted)
        for name, value in _outputs(module, batch):
            if name in exported and not any(_gap(value, other) <= FLOAT_NOISE for other in exported[name]):
                return f'layer "{name}"'
        known = {node.name: [wanted[node], *_normed(node, wanted)] for node in wanted}
        for node, value in Replay(graph).values(batch).items():
            others = [other for other in known.get(node.name, []) if isinstance(other, Tensor)]
            if node.op == "call_function" and others and not any(_alike(value, other) for other in others):
                return f'layer "{(scopes(node) or (node.name,))[-1]}"'
    return "what follows its last layer"


def _gap(exact: Tensor, got: Any) -> float:
    """Largest difference relative to the largest value; infinite if the shapes differ."""
    if not isinstance(got, Tensor) or exact.shape != got.shape:
        return torch.inf
    return float((exact - got).abs().max() / exact.abs().max().clamp(min=1e-12))


def _alike(value: Any, other: Tensor) -> bool:
    """Equal but for a factor and an offset, which rewrites move into the next layer."""
    if not isinstance(value, Tensor) or value.shape != other.shape:
        return False
    y, x = ((each - each.mean()).double() for each in (value, other))
    fitted = x * (x * y).sum() / (x * x).sum().clamp(min=1e-30)
    return float((y - fitted).abs().max()) <= FLOAT_NOISE * max(float(value.abs().max()), 1e-12)


def _normed(node: Node, values: Values) -> list[Any]:
    return [values[user] for user in node.users if user.target in BATCH_NORM]


def _by_layer(values: Values) -> dict[str, list[Any]]:
    """Every value of a graph under the names of all modules that it was computed in."""
    found: dict[str, list[Any]] = {}
    for node, value in values.items():
        for name in scopes(node):
            found.setdefault(name, []).append(value)
    return found


def _outputs(module: nn.Module, batch: Tensor) -> list[tuple[str, Tensor]]:
    """The result of every call of every layer, in order."""
    outputs: list[tuple[str, Tensor]] = []

    def note(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, value: Any) -> None:
            if isinstance(value, Tensor):
                outputs.append((name, value.clone()))

        return hook

    hooks = [each.register_forward_hook(note(name)) for name, each in module.named_modules() if name]
    try:
        module(batch)
    finally:
        for each in hooks:
            each.remove()
    return outputs
