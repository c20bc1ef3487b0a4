"""Weights in the form that folding, rewrites and quantizer change in place: constants, each with one reader. Exact.

- What is computed from constants alone (weight norm, weight standardisation, a cosine head, a position encoding) is
  computed once.
- A parameter that is read twice (a layer used twice, tied weights) is copied, so that each use has its own: torchao
  folds a batch norm into the weight of each convolution before it, and would fold twice into a shared one.
- A convolution whose result is read by a batch norm and by something else is computed once for each.
- A batch norm after a convolution whose weights depend on the image cannot be folded, and becomes a depthwise one.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.utils import _fuse_conv_bn_, _fuse_linear_bn_

from edgekit.errors import InputError
from edgekit.graph.ops import BATCH_NORM, WEIGHTED, aten, constant, has_own_weight, scopes
from edgekit.lower.affine import of_norm

UNTRACKED = (
    "normalises with the statistics of the batch, so that the answer for an image would depend on the images beside "
    "it, and a device sees one at a time; use track_running_stats=True, or a group or layer norm"
)


def apply(graph: GraphModule) -> None:
    """Give every operator of an exported float graph constants of its own, in place.

    Raises:
        InputError: a batch norm has no running statistics.
    """
    _compute(graph)
    for node in graph.graph.nodes:
        if node.target in BATCH_NORM:
            _check(node)
    _unshare(graph)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def separate(graph: GraphModule) -> None:
    """Make sure that each batch norm that follows a convolution or linear layer can be folded into it, in place."""
    for node in list(graph.graph.nodes):
        if node.target in BATCH_NORM:
            _split(graph, node)
    _unshare(graph)
    graph.recompile()


def fold_batch_norms(graph: GraphModule) -> None:
    """Fold each batch norm into the convolution or linear layer before it, as `prepare_pt2e` does, in place."""
    separate(graph)
    _fuse_conv_bn_(graph)
    _fuse_linear_bn_(graph)
    graph.recompile()


def _compute(graph: GraphModule) -> None:
    """Replace what depends on constants alone by its value; a parameter's function stays a parameter, for training."""
    values: dict[Node, Any] = {node: constant(graph, node) for node in _holders(graph)}
    learned = {node for node in values if isinstance(values[node], nn.Parameter) and values[node].requires_grad}
    computed: list[Node] = []
    written = _written(graph)
    for node in graph.graph.nodes:
        sources = node.all_input_nodes
        if node in written or not all(source in values for source in sources) or not _is_computable(node):
            continue
        with torch.no_grad():
            arguments, options = torch.fx.map_arg((node.args, node.kwargs), lambda source: _read(source, values))
            values[node] = node.target(*arguments, **options)
        computed.append(node)
        if any(source in learned for source in sources):
            learned.add(node)
    for node in computed:
        value = values[node]
        if isinstance(value, Tensor) and any(user not in values for user in node.users):
            fixed = value.contiguous().clone()
            trained = node in learned and value.is_floating_point()
            holder = _insert(graph, node, f"computed_{node.name}", nn.Parameter(fixed) if trained else fixed)
            node.replace_all_uses_with(holder)
    for node in reversed(computed):
        graph.graph.erase_node(node)


def _is_computable(node: Node) -> bool:
    """Whether a node computes the same each time, apart from its inputs, and does nothing else."""
    if node.op != "call_function" or torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        return False
    return bool(node.all_input_nodes) or isinstance(node.meta.get("val"), Tensor)  # else it may switch autograd


def _read(source: Node, values: dict[Node, Any]) -> Any:
    """A value to compute with: the graph's own as a copy, others as they are, so that views of them can be changed."""
    value = values[source]
    return value.detach().clone() if source.op == "get_attr" and isinstance(value, Tensor) else value


def _written(graph: GraphModule) -> set[Node]:
    """Tensors that depend on the image only because it is written into them, or into a view of them, in place."""
    varying: set[Node] = set()
    written: set[Node] = set()
    for node in graph.graph.nodes:
        if node.op == "placeholder" or any(source in varying for source in node.all_input_nodes):
            varying.add(node)
            changed = _aliased(node, writes=True)
            while changed is not None and changed not in varying:
                written.add(changed)
                changed = _aliased(changed)
    return written


def _aliased(node: Node, writes: bool = False) -> Node | None:
    """The first argument, if the result shares its memory; with `writes`, only if it is also changed."""
    schema = getattr(node.target, "_schema", None)
    first = node.args[0] if node.args else None
    alias = schema.arguments[0].alias_info if schema is not None and schema.arguments else None
    return first if isinstance(first, Node) and alias is not None and (alias.is_write or not writes) else None


def _check(node: Node) -> None:
    arguments: Any = node.args
    if arguments[3] is None or arguments[5]:
        layer = (scopes(node) or (node.name,))[-1]
        raise InputError(f'model.name: batch norm "{layer}" {UNTRACKED}')


def _split(graph: GraphModule, norm: Node) -> None:
    source: Any = norm.args[0]
    if source.target not in WEIGHTED:
        return
    if not has_own_weight(source):
        _depthwise(graph, norm)
    elif len(source.users) > 1:
        with graph.graph.inserting_before(source):
            again = graph.graph.node_copy(source)
        again.meta = dict(source.meta)
        norm.replace_input_with(source, again)


def _depthwise(graph: GraphModule, norm: Node) -> None:
    """``scale * x + shift``, channel by channel, as a 1x1 convolution."""
    source: Any = norm.args[0]
    scale, shift = of_norm(graph, norm)
    with graph.graph.inserting_before(norm):
        new = graph.graph.call_function(aten.conv2d.default, (source,))
        new.meta = dict(norm.meta)
        weight, bias = (
            _insert(graph, new, f"{norm.name}_{word}", nn.Parameter(value))
            for word, value in (("scale", scale.view(-1, 1, 1, 1)), ("shift", shift))
        )
    new.args = (source, weight, bias, [1, 1], [0, 0], [1, 1], len(scale))
    norm.replace_all_uses_with(new)
    graph.graph.erase_node(norm)


def _unshare(graph: GraphModule) -> None:
    """Copy each constant for all its readers but the first; views of one storage are shared, too."""
    seen: set[int] = set()
    for holder in _holders(graph):
        value = constant(graph, holder)
        for user in list(holder.users):
            place = value.untyped_storage().data_ptr()
            if place in seen:
                name = f"{str(holder.target).replace('.', '_')}_of_{user.name}"
                user.replace_input_with(holder, _insert(graph, user, name, copy.deepcopy(value.detach()), value))
            seen.add(place)


def _holders(graph: GraphModule) -> list[Node]:
    nodes = [node for node in graph.graph.nodes if node.op == "get_attr"]
    return [node for node in nodes if isinstance(_found(graph, node), Tensor)]


def _found(graph: GraphModule, node: Node) -> Any:
    owner: Any = graph
    for part in str(node.target).split("."):
        owner = getattr(owner, part, None)
    return owner


def _insert(graph: GraphModule, before: Node, name: str, value: Tensor, like: Tensor | None = None) -> Node:
    """A constant before a node; a parameter if it is one, or `like` is."""
    if isinstance(like, nn.Parameter):
        value = nn.Parameter(value.clone(), like.requires_grad)
    if isinstance(value, nn.Parameter):
        graph.register_parameter(name, value)
    else:
        graph.register_buffer(name, value)
    with graph.graph.inserting_before(before):
        node = graph.graph.get_attr(name)
    node.meta["val"] = value.detach()
    return node
