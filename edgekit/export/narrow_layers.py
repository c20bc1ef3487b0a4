"""Which weight of a quantized network becomes how narrow when its layers do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.fx import GraphModule

from edgekit.export.narrow_shapes import CannotCut, Cut, Shape, fingerprint
from edgekit.graph.exported_program import fold_weights
from edgekit.graph.ops import WEIGHT_DEQUANTIZE, WEIGHTED, constant, scopes
from edgekit.lower.reparameterize import joined
from edgekit.types import Size


@dataclass(frozen=True)
class Layers:
    """The weighted layers of a quantized network."""

    by_weight: Mapping[str, tuple[str, ...]]
    """Layers by `fingerprint` of the weight that files store: several if their weights are equal."""
    shapes: Mapping[str, Shape]
    """Of every parameter of the float network, its branches joined."""


def layers(graph: GraphModule, module: nn.Module, size: Size) -> Layers:
    """Find the layers' weights in a quantized graph.

    Args:
        graph: with weights quantized in the graph.
        module: the float network that it was made from, in eval mode.
        size: shape of an image.
    """
    shapes = _shapes(module, size)
    folded = fold_weights(graph)
    found: dict[str, list[str]] = {}
    for node in folded.graph.nodes:
        if node.op != "call_function" or node.target not in WEIGHTED:
            continue
        holder: Any = node.args[1]
        if holder.target is WEIGHT_DEQUANTIZE:
            holder = holder.args[0]
        layer = (scopes(node) or ("",))[-1]
        if holder.op == "get_attr":
            weight = constant(folded, holder).detach().numpy()
            if shapes.get(f"{layer}.weight") == weight.shape:
                found.setdefault(fingerprint(weight), []).append(layer)
    return Layers({mark: tuple(dict.fromkeys(names)) for mark, names in found.items()}, shapes)


def cuts(known: Layers, pruned: nn.Module, size: Size) -> dict[str, Cut]:
    """The cuts that make a file of the whole network one of the pruned network, by `fingerprint`.

    Args:
        known: the layers of the whole network.
        pruned: the same float network with fewer channels, in eval mode.
        size: shape of an image.

    Raises:
        CannotCut: it differs in something other than the widths of layers.
    """
    shapes = _shapes(pruned, size)
    if shapes.keys() != known.shapes.keys():
        other = sorted(shapes.keys() ^ known.shapes.keys())[0]
        raise CannotCut(f"{other}: only one of the networks has it")
    layers = {layer for names in known.by_weight.values() for layer in names}
    norms = {name for name, part in pruned.named_modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)}
    for name, shape in shapes.items():
        if shape != known.shapes[name]:
            owner = name.rpartition(".")[0]
            if owner not in layers | norms:
                raise CannotCut(f"{name}: became narrower, and is no layer's weight or batch norm")
            if len(shape) != len(known.shapes[name]) or any(
                new > old or (new == 1 and old > 1) for new, old in zip(shape, known.shapes[name], strict=True)
            ):
                raise CannotCut(f"{name}: {known.shapes[name]} became {shape}")
    made = {}
    for mark, names in known.by_weight.items():
        narrow = {shapes[f"{layer}.weight"] for layer in names}
        if len(narrow) > 1:
            raise CannotCut(f"{' and '.join(names)}: have equal weights, but become differently wide")
        made[mark] = Cut(names[0], known.shapes[f"{names[0]}.weight"], narrow.pop())
    return made


def _shapes(module: nn.Module, size: Size) -> dict[str, Shape]:
    return {name: tuple(value.shape) for name, value in joined(module, size).named_parameters(remove_duplicate=False)}
