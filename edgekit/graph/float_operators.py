"""How messages speak of operators that have no integer form: their kinds, their layers, and what can be done."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from torch.fx import Node

from edgekit.graph.ops import scopes


def named(node: Node) -> str:
    """Kind and layer, as ``gelu in blocks.0.act``."""
    source = node.args[0] if node.target is operator.getitem else node
    kind = str(source.target if isinstance(source, Node) else source).removeprefix("aten.").split(".")[0]
    return f"{kind} in {layer(node) or 'the code of the network itself'}"


def layer(node: Node) -> str:
    """The module whose code calls it; "" for the network's own."""
    return (scopes(node) or ("",))[-1]


def advice(nodes: Sequence[Node]) -> str:
    """What a user can do about operators without an integer form; a recipe can only name layers."""
    names = sorted({layer(node) for node in nodes})
    keep = f", add {', '.join(names)} to quantize.keep_float" if all(names) and names else ""
    return f'set quantize.float_operators = "allow"{keep}, or replace them in the network'
