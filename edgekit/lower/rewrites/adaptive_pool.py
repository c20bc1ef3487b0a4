"""An adaptive average pool whose windows differ (12 pixels to 7) becomes two linear layers, over width and over height.

Helps both engines, which have no such pool: converters write it as dozens of float operators.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgekit.graph.ops import aten
from edgekit.lower.affine import hold

NAME = "adaptive_pool"
SCOPE = "graph"
NEEDED = "pools with windows of several sizes would compute in float"


def apply(graph: GraphModule) -> int:
    """Rewrite every such pool of an exported float graph in place; returns how many."""
    found = [node for node in graph.graph.nodes if _is_uneven(node)]
    for node in found:
        source: Any = node.args[0]
        wanted: Any = node.args[1]
        result = source
        for axis in (3, 2):
            before, after = int(source.meta["val"].shape[axis]), int(wanted[axis - 2])
            with graph.graph.inserting_before(node):
                weight = hold(graph, f"{node.name}_{'hw'[axis - 2]}", _means(before, after))
                pooled = graph.graph.call_function(aten.linear.default, (result, weight))
                turned = graph.graph.call_function(aten.transpose.int, (pooled, 2, 3))
            for new in (pooled, turned):
                new.meta.update(node.meta)
            pooled.meta["val"] = torch.nn.functional.linear(result.meta["val"], weight.meta["val"])
            turned.meta["val"] = pooled.meta["val"].transpose(2, 3)
            result = turned
        node.replace_all_uses_with(result)
        graph.graph.erase_node(node)
    graph.recompile()
    return len(found)


def matches(graph: GraphModule) -> int:
    """How many such pools a float graph has."""
    return sum(_is_uneven(node) for node in graph.graph.nodes)


def matters(graph: GraphModule) -> bool:
    """Always: other operators run."""
    return True


def _is_uneven(node: Node) -> bool:
    if node.target is not aten.adaptive_avg_pool2d.default:
        return False
    source: Any = node.args[0]
    wanted: Any = node.args[1]
    return any(extent % parts for extent, parts in zip(source.meta["val"].shape[2:], wanted, strict=True))


def _means(before: int, after: int) -> Tensor:
    """float32 (after, before): row i averages pixels floor(i * before / after) up to ceil((i + 1) * before / after)."""
    weight = torch.zeros(after, before)
    for place in range(after):
        start, stop = place * before // after, math.ceil((place + 1) * before / after)
        weight[place, start:stop] = 1 / (stop - start)
    return weight
