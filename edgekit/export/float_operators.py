"""Find the float operators of an integer file that the recipe did not ask for, and their layers."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import NoReturn

import torch
from torch.fx import GraphModule, Node

from edgekit.errors import Shortfall
from edgekit.graph.float_operators import advice, layer, named
from edgekit.graph.ops import CLAMPS, COMPUTING, DEQUANTIZE, MOVING, QUANTIZE, WEIGHT_DEQUANTIZE, WEIGHTED, scopes


def check(file: str, graph: GraphModule, operators: Sequence[str], keep_float: Sequence[str] | None) -> None:
    """Raise if a quantized file computes anything in float that the recipe does not keep in float.

    Only weighted layers that the graph keeps in float, and operators in the modules of `keep_float`, may be float.

    Args:
        file: artifact id, for the message.
        graph: what the file was made from.
        operators: float operators of the file, each as "TYPE name".
        keep_float: qualified names of the modules that may compute in float; None: all.

    Raises:
        Shortfall: the file has other float operators; names the type and layer of each.
    """
    if keep_float is None:
        return
    floats = float_nodes(graph)
    unasked = unasked_for(floats, graph, keep_float)
    if unasked or (operators and not floats):
        refuse(file, [named(node) for node in unasked] or list(operators), unasked)


def unasked_for(nodes: Sequence[Node], graph: GraphModule, keep_float: Sequence[str]) -> list[Node]:
    """Those of some nodes that are in no module that the recipe keeps in float; arguments as in `check`."""
    weighted = (node for node in float_nodes(graph) if node.target in WEIGHTED)
    kept = {*keep_float, *(layer(node) for node in weighted)}
    return [node for node in nodes if not kept & {*scopes(node), layer(node)}]


def refuse(file: str, names: Sequence[str], nodes: Sequence[Node]) -> NoReturn:
    """Raise Shortfall for the operators of a file that would be float, whose nodes give the advice."""
    raise Shortfall(
        f"{file}: {len(names)} operator{'s' * (len(names) > 1)} would compute in float in an integer file: "
        f"{', '.join(names)}; {advice(nodes)}"
    )


def float_nodes(graph: GraphModule) -> list[Node]:
    """Nodes of a quantized graph that compute in float; a clamp counts as part of the operator before it."""
    floats: list[Node] = []
    for node in graph.graph.nodes:
        if _computes(node) and not _is_integer(node):
            absorbed = node.target in CLAMPS and _computes(node.all_input_nodes[0])
            if not absorbed:
                floats.append(node)
    return floats


def _computes(node: Node) -> bool:
    value = node.meta.get("val")
    if isinstance(value, tuple | list) and value:  # of several results, which getitem picks
        value = value[0]
    return (
        node.op == "call_function"
        and isinstance(value, torch.Tensor)
        and value.is_floating_point()
        and node.target not in MOVING | {operator.getitem}
        and "quantized_decomposed" not in str(node.target)
    )


def _is_integer(node: Node) -> bool:
    """Whether the operator is between dequantize and quantize nodes, apart from moves and clamps."""
    if node.target in WEIGHTED:
        sources = [each for each in node.args[:2] if isinstance(each, Node)]
    elif node.target in COMPUTING | CLAMPS:
        sources = node.all_input_nodes
    else:
        return False
    return all(arrives(source) for source in sources) and _leaves(node)


def arrives(node: Node) -> bool:
    """Whether a value is dequantized, and perhaps moved or clamped, but not computed with."""
    if node.target in MOVING | CLAMPS:
        return all(arrives(source) for source in node.all_input_nodes)
    return node.target in (DEQUANTIZE, WEIGHT_DEQUANTIZE)


def _leaves(node: Node) -> bool:
    return bool(node.users) and all(
        user.target is QUANTIZE or (user.target in MOVING | CLAMPS and _leaves(user)) for user in node.users
    )
