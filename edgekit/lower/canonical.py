"""One form for what torch can write in many ways, before rewrites and quantizer look at a graph. No value changes.

- Operators that only concern memory (``contiguous``) or that convert to the type there is are removed.
- A split, chunk or unbind becomes slices, which both formats copy as integers.
- A number operand becomes a constant tensor, which gets its own grid; division by a constant becomes multiplication,
  subtraction addition, and ``1 - x`` becomes ``-1 * x + 1``. A constant is the second operand.
- A hard-sigmoid written as ``relu6(x + 3) / 6`` becomes hardsigmoid, and that times x becomes hardswish.
- A sigmoid that is concatenated is first multiplied by one: TFLite prescribes its grid but wants one grid for all
  parts of a concatenation, and the converter would drop a requantization that has no operator in it.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgekit.graph.ops import ADDS, CLAMPS, MOVING, MULS, SIGMOIDS, aten, bounds
from edgekit.graph.ops import constant as held

DIVS = {aten.div.Tensor, aten.div_.Tensor}
SUBS = {aten.sub.Tensor, aten.sub_.Tensor}
NOTHING = {
    aten.contiguous.default,
    aten.clone.default,
    aten.detach.default,
    aten.alias.default,
    aten.lift_fresh_copy.default,
}
CASTS = {aten.to.dtype, aten.to.device, aten.to.dtype_layout, aten._to_copy.default, aten.type_as.default}
TURNED = {aten.rsub.Scalar, aten.rsub.Tensor, *SUBS, *ADDS, *MULS}
SPLITS = {aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default}


def apply(graph: GraphModule) -> None:
    """Rewrite an exported float graph in place."""
    for node in list(graph.graph.nodes):
        if node.target in NOTHING or (node.target in CASTS and _same_type(node)):
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
        elif node.target is aten.view.default:
            node.target = aten.reshape.default  # works without the ``contiguous`` removed above
        elif node.target in SPLITS:
            _slices(graph, node)
        elif node.target is aten.unbind.int:
            for user in list(node.users):
                _replace(graph, user, aten.select.int, node.args[0], *(node.args[1:] or (0,)), user.args[1])
        elif node.target in DIVS | MULS and _is_hard_sigmoid(node):
            _replace(graph, node, aten.hardsigmoid.default, node.args[0].args[0].args[0])
    for node in list(graph.graph.nodes):
        if node.target in MULS:
            _hard_swish(graph, node)
    for node in list(graph.graph.nodes):
        if node.target in TURNED:
            _turn(graph, node)
    for node in list(graph.graph.nodes):
        if node.target in ADDS | MULS | DIVS | SUBS:
            _number(graph, node)
            _tensor(graph, node)
        elif node.target is aten.cat.default:
            for source in dict.fromkeys(node.all_input_nodes):
                if len(node.all_input_nodes) > 1 and _origin(source).target in SIGMOIDS:
                    _times_one(graph, source, node)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def constant(graph: GraphModule, before: Node, value: float) -> Node:
    """Insert a one-element float32 constant before a node, with the rank of that node's result.

    LiteRT's converter keeps an operator channel-last only if all its operands have four dimensions: a constant of
    shape (1,) costs a transpose on either side of the operator.
    """
    name = f"constant_{sum(name.startswith('constant_') for name, _ in graph.named_buffers())}"
    filled = torch.full([1] * before.meta["val"].dim(), value)
    graph.register_buffer(name, filled)
    with graph.graph.inserting_before(before):
        node = graph.graph.get_attr(name)
    node.meta["val"] = filled
    return node


def _same_type(node: Node) -> bool:
    source: Any = node.args[0]
    return isinstance(source, Node) and bool(source.meta["val"].dtype == node.meta["val"].dtype)


def _slices(graph: GraphModule, split: Node) -> None:
    """Replace each used part by a slice; torch has already computed the part sizes."""
    source: Any = split.args[0]
    axis: Any = split.args[2] if len(split.args) > 2 else split.kwargs.get("dim", 0)
    widths = [int(part.shape[axis]) for part in split.meta["val"]]
    for user in list(split.users):
        assert user.target is operator.getitem
        place: Any = user.args[1]
        start = sum(widths[: place % len(widths)])
        _replace(graph, user, aten.slice.Tensor, source, axis, start, start + widths[place])


def _replace(graph: GraphModule, node: Node, target: Any, *arguments: Any) -> Node:
    with graph.graph.inserting_before(node):
        new = graph.graph.call_function(target, arguments)
    new.meta.update(node.meta)
    node.replace_all_uses_with(new)
    graph.graph.erase_node(node)
    return new


def _is_hard_sigmoid(node: Node) -> bool:
    """Whether this is ``clamp(x + 3, 0, 6) / 6`` and nothing else uses the values in between."""
    clamp, factor = _operands(node)
    factor = 1 / factor if factor and node.target in DIVS else factor
    if factor is None or abs(factor - 1 / 6) > 1e-6 or clamp.target not in CLAMPS or bounds(clamp) != (0.0, 6.0):
        return False
    shifted: Any = clamp.args[0]
    return (
        shifted.target in ADDS
        and _operands(shifted)[1] == 3.0
        and len(clamp.users) == 1
        and len(shifted.users) == 1
        and node.args[0] is clamp
        and isinstance(shifted.args[0], Node)
    )


def _operands(node: Node) -> tuple[Any, float | None]:
    """The first operand, and the second if it is a number (only if add's `alpha` is 1)."""
    first, second = node.args[0], node.args[1]
    number = isinstance(second, int | float) and not node.kwargs
    return first, float(second) if number else None  # type: ignore[arg-type]


def _hard_swish(graph: GraphModule, node: Node) -> None:
    for x, gate in (node.args, node.args[::-1]):
        if (
            isinstance(gate, Node)
            and gate.target in (aten.hardsigmoid.default, aten.hardsigmoid_.default)
            and gate.args[0] is x
            and len(gate.users) == 1
        ):
            _replace(graph, node, aten.hardswish.default, x)
            return


def _number(graph: GraphModule, node: Node) -> None:
    value = _operands(node)[1]
    if value is None or not isinstance(node.args[0], Node):
        return
    multiplies = node.target in MULS | DIVS
    value = 1 / value if node.target in DIVS and value else -value if node.target in SUBS else value
    target = aten.mul.Tensor if multiplies else aten.add.Tensor
    _replace(graph, node, target, node.args[0], constant(graph, node, value))


def _turn(graph: GraphModule, node: Node) -> None:
    """Put the constant second; what is subtracted from a constant is first multiplied by -1."""
    first, second = node.args[:2]
    reverse = node.target in (aten.rsub.Scalar, aten.rsub.Tensor)
    if node.kwargs or len(node.args) > 2:
        return
    if reverse:
        first, second = second, first
    if not isinstance(second, Node) or second.op == "get_attr" or (isinstance(first, Node) and first.op != "get_attr"):
        return
    if node.target in SUBS or reverse:
        target: Any = aten.add.Tensor
        with graph.graph.inserting_before(node):
            negated = graph.graph.call_function(aten.mul.Tensor, (second, -1.0))
        negated.meta.update(second.meta)
        second = negated
    else:
        target = node.target
    _replace(graph, node, target, second, first)


def _tensor(graph: GraphModule, node: Node) -> None:
    """A division by a constant tensor multiplies, a subtraction of one adds."""
    if node.target not in DIVS | SUBS or node.kwargs or len(node.args) != 2:
        return
    source, holder = node.args
    if not isinstance(source, Node) or not isinstance(holder, Node) or holder.op != "get_attr":
        return
    value = held(graph, holder).detach()
    value = 1 / value if node.target in DIVS else -value
    name = f"{node.name}_constant"
    graph.register_buffer(name, value)
    with graph.graph.inserting_before(node):
        new = graph.graph.get_attr(name)
    new.meta["val"] = value
    _replace(graph, node, aten.mul.Tensor if node.target in DIVS else aten.add.Tensor, source, new)


def _origin(node: Node) -> Node:
    while node.target in (MOVING | CLAMPS) - {aten.cat.default}:
        node = node.all_input_nodes[0]
    return node


def _times_one(graph: GraphModule, source: Node, cat: Node) -> None:
    one = constant(graph, cat, 1.0)
    with graph.graph.inserting_before(cat):
        same = graph.graph.call_function(aten.mul.Tensor, (source, one))
    same.meta.update(source.meta)
    cat.replace_input_with(source, same)
