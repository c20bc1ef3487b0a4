"""Lower a graph for ExecuTorch, and find what XNNPACK's delegate does not compute in integers."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgekit.graph.exported_program import fold_weights
from edgekit.graph.float_operators import layer
from edgekit.graph.ops import CLAMPS, QUANTIZE, aten, bounds
from edgekit.types import Size, shape_of

_MOVING = {
    "view_copy", "permute_copy", "squeeze_copy", "unsqueeze_copy", "expand_copy", "slice_copy", "clone", "cat",
    "constant_pad_nd", "max_pool2d", "_to_dim_order_copy", "_clone_dim_order",
}  # fmt: skip
"""Operators that compute nothing, whatever the type of what they move."""


_FUSED = ("relu.default", "hardtanh.default")
"""Activations that an integer kernel applies to its own output."""


@dataclass(frozen=True)
class Operator:
    """An operator that is not an integer kernel of the delegate."""

    node: Node
    outside: bool
    """Whether it is outside of the delegate: one of ExecuTorch's own kernels runs it, which are slow."""

    @property
    def kind(self) -> str:
        """As ``avg_pool2d``."""
        return _kind(self.node)

    def __str__(self) -> str:
        where = layer(self.node) or "the code of the network itself"
        return f"{self.kind} in {where}" + (" (outside of XNNPACK's delegate)" if self.outside else "")


def lower(graph: torch.nn.Module, size: Size) -> Any:
    """An ``EdgeProgramManager`` of a graph with all in XNNPACK's delegate that its partitioner takes.

    Args:
        graph: a float network, or a quantized graph; takes NCHW.
        size: shape of an image.
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    source = graph
    if isinstance(graph, GraphModule):
        source = fold_weights(graph)
        _name_clamps(source)
        _keep_dimensions(source)
    return to_edge_transform_and_lower(
        torch.export.export(source, (torch.zeros(1, *shape_of(size)),), strict=False),
        partitioner=[XnnpackPartitioner(configs=_configs())],
        compile_config=EdgeCompileConfig(_check_ir_validity=False),  # takes a quarter of the time
    )


def _configs() -> list[Any]:
    """The partitioner's rules, and two integer kernels more that XNNPACK has and they do not ask for.

    A sigmoid is a table of 256 entries; an addition clamps its own output, also to other bounds than those of relu.
    """
    from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
    from executorch.backends.xnnpack.partition.config.generic_node_configs import AddConfig, MulConfig, SigmoidConfig
    from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType

    class Sigmoid(SigmoidConfig):  # type: ignore[misc]
        def supported_precision_types(self) -> list[Any]:
            return [ConfigPrecisionType.FP32, ConfigPrecisionType.STATIC_QUANT]

    class Add(AddConfig):  # type: ignore[misc]
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self.fused_acts = [*_FUSED]

    class Mul(MulConfig):  # type: ignore[misc]
        def __init__(self, **settings: Any) -> None:
            super().__init__(fused_act=[*_FUSED], **settings)

    better = {SigmoidConfig: Sigmoid, AddConfig: Add, MulConfig: Mul}
    return [better.get(each, each) for each in ALL_PARTITIONER_CONFIGS]


def _name_clamps(graph: GraphModule) -> None:
    """Write clamps as relu or hardtanh, in place: only these are joined with the operator before them."""
    for node in graph.graph.nodes:
        if node.target not in CLAMPS:
            continue
        low, high = bounds(node)
        if (low, high) == (0.0, torch.inf):
            node.target, node.args = aten.relu.default, node.args[:1]
        elif -torch.inf < low and high < torch.inf:
            node.target, node.args = aten.hardtanh.default, (node.args[0], low, high)
        else:
            continue
        node.kwargs = {}
    graph.recompile()


def _keep_dimensions(graph: GraphModule) -> None:
    """Write a global mean that drops its dimensions as one that keeps them and a reshape: only that one is taken."""
    for node in list(graph.graph.nodes):
        if node.target is not aten.mean.dim or node.kwargs or (len(node.args) > 2 and node.args[2]):
            continue
        shape = node.all_input_nodes[0].meta["val"].shape
        if len(shape) != 4 or sorted(dim % 4 for dim in node.args[1]) != [2, 3]:
            continue
        node.args = (*node.args[:2], True)
        sinks = list(node.users)
        if len(sinks) == 1 and sinks[0].target is QUANTIZE:  # a reshape needs Q/DQ pairs on both sides
            for last in list(sinks[0].users):
                _insert(graph, last, (aten.view.default, list(shape[:2])), (QUANTIZE, *sinks[0].args[1:]), last)
        else:
            _insert(graph, node, (aten.view.default, list(shape[:2])))
    graph.recompile()


def _insert(graph: GraphModule, last: Node, *chain: Any) -> None:
    """Put operators behind a node, each a target and its arguments; of a node, its own again."""
    users, end = list(last.users), last
    for each in chain:
        parts: tuple[Any, ...] = (each.target, *each.args[1:]) if isinstance(each, Node) else each
        with graph.graph.inserting_after(end):
            made = graph.graph.call_function(parts[0], (end, *parts[1:]))
        made.meta, end = dict(last.meta), made
    for user in users:
        user.replace_input_with(last, end)


def floats(lowered: Any) -> list[Operator]:
    """Operators of a lowered program that compute in float, or that are outside of the delegate, in its order."""
    top = lowered.exported_program().graph_module
    found: list[Operator] = []
    for node in top.graph.nodes:
        inner: Any = getattr(top, str(node.target), None) if node.op == "get_attr" else None
        if hasattr(inner, "original_module"):
            nodes: Sequence[Node] = inner.original_module.graph.nodes
            found += [Operator(each, outside=False) for each in nodes if _computes(each) and not _is_integer(each)]
        elif node.op == "call_function" and not _passes(node):
            found.append(Operator(node, outside=True))
    return found


def _computes(node: Node) -> bool:
    return node.op == "call_function" and not _passes(node) and _kind(node) not in _MOVING


def _passes(node: Node) -> bool:
    """Whether it is no operator of the network: a Q/DQ pair, a call, an entry of a result."""
    return node.target is operator.getitem or "quantized_decomposed" in str(node.target) or "delegate" in _kind(node)


def _is_integer(node: Node) -> bool:
    """Whether the partitioner has joined the Q/DQ pairs around an operator with it."""
    return any(each.meta.get("IS_IMPLICIT_Q_DQ_TAG", False) for each in (*node.all_input_nodes, *node.users))


def _kind(node: Node) -> str:
    target: Any = node.target
    return str(getattr(target, "_op", target)).removeprefix("aten.").removeprefix("dim_order_ops.").split(".")[0]
