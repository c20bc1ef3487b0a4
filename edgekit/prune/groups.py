"""Groups of channels that can only be pruned together, found by Torch-Pruning's dependency graph.

Fang et al.: DepGraph: Towards Any Structural Pruning (2023). A residual add ties all convolutions that write to it, a
depthwise convolution or a squeeze-and-excite gate ties its output to its input. Each group is named after the layer
that heads it: its widest one, the first of these in the network's order.
"""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch_pruning import DependencyGraph, ops

from edgekit.types import Size, shape_of

Role = Literal["writes", "norm", "reads"]
_PASSIVE = (ops._ElementWiseOp, ops._ConcatOp, ops._ReshapeOp, ops._ExpandOp)
"""Operators that channels pass through; not splits and slices, whose sizes are fixed in the network's code."""


@dataclass(frozen=True)
class Member:
    """A layer's part in a group."""

    layer: str
    role: Role
    """Convolution (also depthwise) or linear layer that writes the channels, batch norm, or layer that reads them."""
    channels: Tensor
    """Channels of the group, int64 [n]; a channel may occur several times (a linear layer after flatten)."""
    places: Tensor
    """Index of each of these in the layer, int64 [n]."""


@dataclass(frozen=True)
class Group:
    """Channels that are pruned together."""

    head: str
    channels: int
    members: tuple[Member, ...]


@dataclass(frozen=True)
class Part:
    """The numbers of one member, as criteria see them."""

    role: Role
    weight: Tensor
    """float32 [channels, weights of each]. For a layer that writes: with the following batch norm folded in, as the
    scale of the weights is meaningless without it. For a batch norm: its scale, [channels, 1]."""
    gradient: Tensor | None
    """Gradient of the loss by the unfolded weight, in the same layout; None if the criterion does not ask for it."""


class ChannelGraph:
    """The dependency graph of one network.

    Args:
        module: any network of convolutions, linear layers and batch norms; it is not changed.
        size: shape of an image.
    """

    def __init__(self, module: nn.Module, size: Size) -> None:
        self.module = module
        self.names = {child: name for name, child in module.named_modules()}
        device = next(module.parameters()).device
        training = module.training
        with quiet(), torch.enable_grad():
            self._graph = DependencyGraph().build_dependency(
                module, example_inputs=torch.zeros(1, *shape_of(size), device=device), verbose=False
            )
        module.train(training)

    def groups(self) -> tuple[Group, ...]:
        """All groups that can be pruned, in the network's order.

        Left alone are channels that reach the output or are split or sliced, grouped convolutions that are not
        depthwise, and layers that fit no `Role`.
        """
        by_head: dict[str, Group] = {}
        with quiet():
            for items in self._graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear]):
                layers = [item.dep.target.module for item in items if _writes(self._graph, item)]
                width = max(_outputs(layer) for layer in layers)
                head = next(layer for layer in self.names if layer in layers and _outputs(layer) == width)
                group = self.group(self.names[head])
                if group is not None:
                    by_head[group.head] = group
        order = list(self.names.values())
        return tuple(sorted(by_head.values(), key=lambda group: order.index(group.head)))

    def group(self, head: str) -> Group | None:
        """The group that a convolution or linear layer heads; None if it has to be left alone."""
        layer = self.module.get_submodule(head)
        width = _outputs(layer)
        items = self.items(head, range(width))
        members = [self._member(item) for item in items if not isinstance(item.dep.target.module, _PASSIVE)]
        if any(member is None for member in members):
            return None
        return Group(head, width, tuple(cast(list[Member], members)))

    def items(self, head: str, channels: Any) -> Any:
        """Torch-Pruning's group: what is removed with these output channels of `head`."""
        layer = self.module.get_submodule(head)
        with quiet():
            pruner = self._graph.get_pruner_of_module(layer)
            return self._graph.get_pruning_group(layer, pruner.prune_out_channels, list(channels))

    def _member(self, item: Any) -> Member | None:
        node, layer = item.dep.target, item.dep.target.module
        role: Role
        if isinstance(layer, nn.Conv2d):
            depthwise = layer.groups == layer.in_channels == layer.out_channels and layer.groups > 1
            if layer.groups > 1 and not depthwise:
                return None
            role = "writes" if depthwise or _writes(self._graph, item) else "reads"
        elif isinstance(layer, nn.Linear):
            role = "writes" if _writes(self._graph, item) else "reads"
        elif isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
            role = "norm"
        else:
            return None
        if role == "writes" and not node.outputs:  # the network's output
            return None
        if any(channel is None for channel in item.root_idxs):
            return None
        return Member(self.names[layer], role, torch.tensor(item.root_idxs), torch.tensor(item.idxs))


def parts(module: nn.Module, group: Group, norms: Mapping[str, str], gradients: bool) -> tuple[Part, ...]:
    """The numbers of a group's members.

    Args:
        module: the network.
        group: of that network.
        norms: as `followed_by` finds them.
        gradients: whether to include the weights' gradients.
    """
    made = []
    for member in group.members:
        weight: Any = module.get_submodule(member.layer).weight
        if weight is None:  # a batch norm without scale
            continue
        folded = weight.detach()
        if member.role == "writes" and member.layer in norms:
            norm: Any = module.get_submodule(norms[member.layer])
            scale = torch.rsqrt(norm.running_var + norm.eps) * (1 if norm.weight is None else norm.weight.detach())
            folded = folded * scale.reshape(-1, *[1] * (weight.ndim - 1))
        gradient = _rows(weight.grad, group, member) if gradients and weight.grad is not None else None
        made.append(Part(member.role, _rows(folded, group, member), gradient))
    return tuple(made)


def followed_by(module: nn.Module, size: Size) -> dict[str, str]:
    """The batch norm that takes each layer's output, by name."""
    names = {child: name for name, child in module.named_modules()}
    wrote: list[tuple[Tensor, str]] = []
    pairs = {}

    def before(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        for tensor, layer in wrote:
            if tensor is inputs[0]:
                pairs[layer] = names[norm]

    def after(layer: nn.Module, inputs: Any, output: Tensor) -> None:
        wrote.append((output, names[layer]))

    hooks = [child.register_forward_pre_hook(before) for child in names if isinstance(child, _BatchNorm)]
    hooks += [child.register_forward_hook(after) for child in names if isinstance(child, nn.Conv2d | nn.Linear)]
    _run(module, size)
    for hook in hooks:
        hook.remove()
    return pairs


def unusual_layers(module: nn.Module, size: Size) -> set[str]:
    """Convolutions and linear layers that may not depend on single channels in the usual way.

    They run several times, share their weight with others, compute it (weight norm), or have code of their own.
    """
    layers = {child: name for name, child in module.named_modules() if isinstance(child, nn.Conv2d | nn.Linear)}
    calls: Counter[nn.Module] = Counter()
    hooks = [layer.register_forward_hook(lambda layer, *_: calls.update([layer])) for layer in layers]
    _run(module, size)
    for hook in hooks:
        hook.remove()
    weights = {layer: layer._parameters.get("weight") for layer in layers}
    shares = Counter(id(weight) for weight in weights.values())
    usual = (nn.Conv2d.forward, nn.Linear.forward)
    return {
        name
        for layer, name in layers.items()
        if calls[layer] > 1
        or weights[layer] is None
        or shares[id(weights[layer])] > 1
        or type(layer).forward not in usual
    }


def _run(module: nn.Module, size: Size) -> None:
    training = module.training
    with torch.no_grad():
        module.eval()(torch.zeros(1, *shape_of(size), device=next(module.parameters()).device))
    module.train(training)


def _rows(tensor: Tensor, group: Group, member: Member) -> Tensor:
    """A member's numbers by the group's channels: [channels, n]; zero for channels that it lacks."""
    along = 1 if member.role == "reads" else 0
    rows = tensor.movedim(along, 0).flatten(1) if tensor.ndim > 1 else tensor.unsqueeze(1)
    picked = rows[member.places.to(rows.device)]
    repeats = int(torch.bincount(member.channels, minlength=group.channels).max())
    order = torch.argsort(member.channels, stable=True)
    sorted_channels = member.channels[order]
    first = torch.searchsorted(sorted_channels, sorted_channels)
    column = torch.arange(len(order)) - first
    table = picked.new_zeros(group.channels, repeats, picked.shape[1])
    table[sorted_channels, column] = picked[order.to(picked.device)]
    return table.flatten(1).cpu()


def _writes(graph: Any, item: Any) -> bool:
    layer = item.dep.target.module
    return isinstance(layer, nn.Conv2d | nn.Linear) and graph.is_out_channel_pruning_fn(item.dep.handler)


def _outputs(layer: Any) -> int:
    return int(layer.out_channels if isinstance(layer, nn.Conv2d) else layer.out_features)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Torch-Pruning's output and warnings about cases that are handled here."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def even(each: Sequence[Tensor]) -> Tensor | None:
    """Mean of the layers' norms, each divided by its own mean; None if there are none."""
    if not each:
        return None
    return torch.stack([norms / norms.mean().clamp_min(1e-12) for norms in each]).mean(0)
