"""Run a graph in pieces: node by node over several images, or again starting from one changed tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torchao.quantization.pt2e import ObserverBase

from edgekit.graph.ops import scopes

Values = dict[Node, Any]


class Replay(Interpreter):
    """Computes single nodes; observers pass tensors through, and no operator writes into its input."""

    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph, garbage_collect_values=False)
        self.nodes = list(graph.graph.nodes)
        self.last: Node = next(node for node in graph.graph.nodes if node.op == "output")

    def node(self, node: Node, values: Values) -> Any:
        """The value of `node` (not a placeholder) from the values of its inputs."""
        self.env = values
        return self.run_node(node)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """As `Interpreter`, but nothing is observed."""
        module = self.fetch_attr(target)
        return args[0] if isinstance(module, ObserverBase) else module(*args, **kwargs)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """As `Interpreter`, out of place."""
        schema = getattr(target, "_schema", None)
        if schema is not None and schema.is_mutable:
            args = (args[0].clone(), *args[1:])
        return super().call_function(target, args, kwargs)

    def values(self, image: Tensor) -> Values:
        """Every value of the graph for one image of shape (1, 3, H, W)."""
        values: Values = {}
        for node in self.nodes:
            values[node] = image if node.op == "placeholder" else self.node(node, values)
        return values

    def rerun(self, values: Values, changed: Node, value: Tensor) -> Tensor:
        """The output if `changed` had this value, with the nodes after it computed again."""
        fresh: Values = {changed: value}
        after = False
        for node in self.nodes:
            if after and any(source in fresh for source in node.all_input_nodes):
                inputs = {source: fresh.get(source, values[source]) for source in node.all_input_nodes}
                fresh[node] = self.node(node, inputs)
            after |= node is changed
        return first_tensor(fresh.get(self.last, values[self.last]))


def first_tensor(result: Any) -> Tensor:
    """The output of a graph, which may be a tuple of one."""
    value = result[0] if isinstance(result, tuple | list) else result
    assert isinstance(value, Tensor)
    return value


def not_finite(graph: GraphModule, image: Tensor) -> str:
    """Layer in which the first NaN or infinite value of a float graph arises; "" if there is none."""
    replay = Replay(graph)
    values: Values = {}
    for node in graph.graph.nodes:
        values[node] = image if node.op == "placeholder" else replay.node(node, values)
        value = values[node]
        watched = node.op in ("placeholder", "call_function") and isinstance(value, Tensor)
        if watched and not bool(torch.isfinite(value).all()):
            return (scopes(node) or (node.name,))[-1] if node.op != "placeholder" else "input"
    return ""
