"""Operators that a converter lacks or gets wrong, written with those that all have. No value changes.

- ``expand`` before an operator that broadcasts (``x * gate.expand_as(x)``) goes: LiteRT's converter mixes up the axes.
- An adaptive max pool becomes max pools of fixed windows; neither format has it.
- Attention whose heads share one key and value (multi-query, https://arxiv.org/abs/1911.02150) becomes attention of one
  head with more rows: LiteRT's converter reshapes the key that it has to broadcast where it should transpose it.
- An average pool with ``divisor_override`` becomes a convolution, as the ONNX exporter ignores the divisor.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from edgekit.errors import InputError
from edgekit.graph.exported_program import trace
from edgekit.graph.ops import ADDS, MULS, aten
from edgekit.lower import windows
from edgekit.lower.rewrites import average_pool
from edgekit.lower.windows import Run
from edgekit.types import Size

EXPANDS = {aten.expand.default, aten.expand_as.default}
BROADCASTING = ADDS | MULS | {aten.sub.Tensor, aten.sub_.Tensor, aten.div.Tensor, aten.div_.Tensor}
ATTENTION = aten.scaled_dot_product_attention.default
MAX_POOL = aten.adaptive_max_pool2d.default


def apply(graph: GraphModule) -> int:
    """Rewrite every match of an exported float graph in place; returns how many."""
    count = 0
    for node in list(graph.graph.nodes):
        if node.target in EXPANDS and _needless(node):
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
            count += 1
        elif node.target is ATTENTION and _shares_key(node):
            _one_head(graph, node)
            count += 1
        elif node.target is MAX_POOL:
            count += _fixed(graph, node)
        elif node.target is aten.avg_pool2d.default and average_pool.divisor(node):
            count += average_pool.convert(graph, node, f"{node.name}_divided")
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return count


def module(network: nn.Module, size: Size) -> nn.Module:
    """A network that converters take: itself, or its graph where something had to be rewritten.

    Args:
        network: in eval mode; it is not changed.
        size: shape of an image.
    """
    try:
        graph = trace(copy.deepcopy(network), size).module()
    except InputError:  # the exporters have their own ways, and their own words
        return network
    with torch.no_grad():
        return graph if apply(graph) else network


def _needless(node: Node) -> bool:
    """Whether all readers would broadcast by themselves, to the same shape."""
    shape = node.meta["val"].shape
    return bool(node.users) and all(
        user.target in BROADCASTING
        and any(
            isinstance(other, Node) and other is not node and other.meta["val"].shape == shape
            for other in user.args[:2]
        )
        for user in node.users
    )


def _shares_key(node: Node) -> bool:
    """Whether several heads read one key and one value, without a mask."""
    query, key, value = (source.meta["val"].shape for source in node.all_input_nodes[:3])
    plain = len(node.args) == 3 and not node.kwargs.get("attn_mask") and not node.kwargs.get("is_causal")
    return plain and len(query) == 4 and query[1] > 1 == key[1] == value[1] and query[0] == key[0] == value[0]


def _one_head(graph: GraphModule, node: Node) -> None:
    query = node.all_input_nodes[0]
    batch, heads, rows, width = query.meta["val"].shape
    shape, flat = list(node.meta["val"].shape), [batch, 1, heads * rows, width]
    with graph.graph.inserting_before(node):
        one = windows.call(graph, query, flat, aten.reshape.default, query, flat)
    node.replace_input_with(query, one)
    with graph.graph.inserting_after(node):
        back = windows.call(graph, node, shape, aten.reshape.default, node, shape)
    node.replace_all_uses_with(back, lambda user: user is not back)
    node.meta["val"] = node.meta["val"].reshape(batch, 1, heads * rows, -1)


def _fixed(graph: GraphModule, node: Node) -> bool:
    """Rewrite an adaptive max pool, unless the places of its maxima are read or its windows are too many."""
    source: Any = node.args[0]
    values = [user for user in node.users if user.args[1] == 0]
    if len(values) != 1 or any(user.users for user in node.users if user not in values):
        return False
    pooled = values[0]
    pairs = zip(source.meta["val"].shape[2:], pooled.meta["val"].shape[2:], strict=True)
    rows, columns = (windows.runs(windows.adaptive(*pair)) for pair in pairs)
    if len(rows) * len(columns) > windows.MOST:
        return False

    def one(part: Node, row: Run, column: Run) -> Node:
        kernel = [each.first.stop - each.first.start for each in (row, column)]
        shape = (*pooled.meta["val"].shape[:2], row.count, column.count)
        stride = [row.stride, column.stride]
        return windows.call(graph, pooled, shape, aten.max_pool2d.default, part, kernel, stride)

    windows.pool(graph, pooled, source, rows, columns, one)
    return True
