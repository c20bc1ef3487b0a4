"""Replay a plan: remove the blocks and channels that it does not keep from a network."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from edgekit.choices import no_such
from edgekit.errors import InputError, Shortfall
from edgekit.prune import blocks
from edgekit.prune.groups import ChannelGraph, quiet
from edgekit.types import PrunePlan, Size, shape_of

TOLERANCE = 1e-3
"""Largest difference, relative to the largest logit, that the order of float sums can explain."""


def apply(module: nn.Module, plan: PrunePlan, size: Size) -> None:
    """Remove blocks and channels in place; weights and batch-norm statistics of the others do not change.

    Args:
        module: the network the plan was made for, unpruned, with any weights.
        plan: what to keep.
        size: shape of an image.

    Raises:
        InputError: the plan is for another network.
    """
    blocks.drop(module, plan.dropped, size)
    fit(module, plan)
    graph = ChannelGraph(module, size)
    for head, kept in plan.kept.items():
        group = graph.group(head)
        if group is None:
            raise InputError(f"prune plan: {head} heads no group that can be pruned; the plan is for another network")
        if group.channels != plan.of[head]:
            raise InputError(f"prune plan: {head} is pruned with another layer of the plan; name only one of them")
        stay = set(kept)
        gone = [channel for channel in range(plan.of[head]) if channel not in stay]
        if gone:
            items = graph.items(head, gone)
            with quiet():
                items.prune()
    for parameter in module.parameters():
        parameter.grad = None


def fit(module: nn.Module, plan: PrunePlan) -> None:
    """Check that the plan's layers exist and are as wide as it says.

    Raises:
        InputError: a layer is missing or has another width.
    """
    layers = {name: child for name, child in module.named_modules() if isinstance(child, nn.Conv2d | nn.Linear)}
    for head, kept in plan.kept.items():
        if head not in layers:
            raise InputError(f"prune plan: {no_such(head, layers, 'layer')}: the plan is for another network")
        rows = layers[head].weight.shape[0]
        if plan.of.get(head) != rows:
            raise InputError(
                f"prune plan: {head} has {rows} output channels, the plan says {plan.of.get(head)}: "
                "it is for another network"
            )
        if not kept or list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= rows:
            raise InputError(f"prune plan: {head}: kept must be ascending channels within 0..{rows - 1}, at least one")


def ignored(module: nn.Module, plan: PrunePlan, size: Size) -> nn.Module:
    """A copy that still has every layer, but in which blocks add nothing, and nothing reads channels, that are dropped.

    It computes what the pruned network does in a different way: no shape changes, weights are set to zero.

    Args:
        module: the unpruned network.
        plan: what to keep.
        size: shape of an image.
    """
    blind = copy.deepcopy(module)
    blocks.silence(blind, plan.dropped, size)
    graph = ChannelGraph(module, size)
    for head, kept in plan.kept.items():
        group = graph.group(head)
        assert group is not None
        gone = torch.ones(group.channels, dtype=torch.bool)
        gone[list(kept)] = False
        for member in group.members:
            if member.role == "reads":
                weight = blind.get_submodule(member.layer).weight
                assert isinstance(weight, Tensor)
                with torch.no_grad():
                    weight[:, member.places[gone[member.channels]]] = 0
    return blind


def check(whole: nn.Module, pruned: nn.Module, plan: PrunePlan, size: Size) -> None:
    """Check that the pruned network computes what the unpruned one does when nothing reads the dropped channels.

    Args:
        whole: the unpruned network, in eval mode.
        pruned: the pruned network, in eval mode.
        plan: what was kept.
        size: shape of an image.

    Raises:
        Shortfall: it does not: the dependency graph misread how channels run through this network.
    """
    blind = ignored(whole, plan, size)
    image = torch.rand(2, *shape_of(size), generator=torch.Generator().manual_seed(0)) * 2 - 1
    image = image.to(next(whole.parameters()).device)
    with torch.no_grad():
        try:
            got = pruned.eval()(image)
        except RuntimeError as error:
            raise Shortfall(f"prune: the pruned network does not run: {str(error).splitlines()[0]}") from error
        expected = blind.eval()(image)
    scale = float(expected.abs().max())
    difference = float((got - expected).abs().max())
    if not difference <= TOLERANCE * max(scale, 1e-6):
        raise Shortfall(
            f"prune: the pruned network does not compute what the unpruned one does without these channels (outputs "
            f"differ by {difference:.3g} of {scale:.3g}): the dependency graph misread how channels are connected; "
            "name the layers in prune.keep"
        )
