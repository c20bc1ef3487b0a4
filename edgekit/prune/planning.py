"""Decide which channels stay."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit import choices
from edgekit.config.recipe import PruneSection
from edgekit.errors import InputError, Shortfall
from edgekit.graph.logits import per_class
from edgekit.latency.shapes import VECTOR
from edgekit.prune import _greedy
from edgekit.prune._greedy import Block
from edgekit.prune.aim import Aim
from edgekit.prune.apply import apply, check
from edgekit.prune.cost import Cost
from edgekit.prune.groups import ChannelGraph, Group, followed_by, parts, unusual_layers
from edgekit.prune.port import score
from edgekit.types import PrunePlan, Size

FLOOR = 0.25
"""Share of its channels below which no group is pruned as long as another can be."""

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Training images and labels, the same each time it is called."""


class Planner:
    """Plans for one network, for any number of budgets.

    Args:
        module: the unpruned network; it is not changed.
        size: shape of an image.
        section: the recipe's choices.
        batches: images and labels for scores that need gradients.

    Raises:
        InputError: `keep` names no layer; nothing can be pruned.
    """

    def __init__(self, module: nn.Module, size: Size, section: PruneSection, batches: Batches) -> None:
        self._module, self._size, self._section, self._batches = module, size, section, batches
        self.groups = tuple(_free(module, size, section))
        self._near = _greedy.neighbours(self.groups)
        self._whole: dict[str, dict[str, Tensor]] = {}
        """Scores of the unpruned network, by criterion."""
        self.cost = Cost(module, self.groups, size)
        self.width = {group.head: group.channels for group in self.groups}
        """Channels of each group, by its head."""

    @property
    def least(self) -> tuple[PrunePlan, ...]:
        """The narrowest networks: one with ``round_to`` channels in each group, and one with as many as fill a vector.

        The second may be the faster one (``benchmarks/round_to.py``).
        """
        return tuple(
            PrunePlan({head: tuple(range(min(width, floor))) for head, width in self.width.items()}, self.width)
            for floor in _floors(self._section.round_to)
        )

    def plan(self, aim: Aim, section: PruneSection | None = None) -> PrunePlan:
        """Remove the least important channels until the network costs at most a share of the original.

        Either the least important channels of all groups are removed first ("global"), or each group loses the same
        share ("local"). Scores are computed again `PruneSection.steps` times, on the network pruned so far.

        Args:
            aim: the share to keep, and of what.
            section: other choices than the planner's; `keep` and `round_to` have to be the same.

        Raises:
            InputError: the share is out of reach.
            Shortfall: the loss has no finite gradient.
        """
        section = section or self._section
        groups, cost = self.groups, aim.of(self.cost)
        whole = cost({})
        least = min(
            cost({head: width - min(width, floor) for head, width in self.width.items()})
            for floor in _floors(section.round_to)
        )
        if least > aim.share * whole:
            raise InputError(
                f"{aim.said} = {aim.share:g}: out of reach without emptying a group of channels; the least is "
                f"{least / whole:.3f} (at least round_to = {section.round_to} channels stay in each group"
                + (f", {len(section.keep)} layers are kept)" if section.keep else ")")
            )
        generator = torch.Generator().manual_seed(section.seed)
        kept = {head: torch.arange(width) for head, width in self.width.items()}
        for step in range(1, section.steps + 1):
            target = whole * (1 - (1 - aim.share) * step / section.steps)
            scores = self._scores(kept, section, generator)
            blocks = {
                group.head: _blocks(group, scores[group.head], section, aim.scores)
                for group in groups
                if group.head in scores
            }
            gone = {head: width - len(kept[head]) for head, width in self.width.items()}
            if aim.per_cost and section.scope == "global":
                drop = _greedy.by_value(blocks, gone, cost, target, self._near)
            else:
                drop = _greedy.by_order(blocks, gone, cost, target)
            for head, places in drop.items():
                stays = [place for place in range(len(kept[head])) if place not in places]
                kept[head] = kept[head][stays]
                gone[head] = self.width[head] - len(stays)
        if cost(gone) > aim.share * whole:
            unscored = len(scores) < len(groups)
            why = f'"{section.score}" applies to {len(scores)} of {len(groups)} groups of channels'
            raise InputError(
                f"{aim.said} = {aim.share:g}: out of reach; the least is {cost(gone) / whole:.3f}, "
                + (f"as {why}" if unscored else "where channels are removed in this order")
            )
        changed = [group for group in groups if gone[group.head]]
        return PrunePlan(_lists(kept, changed), {group.head: group.channels for group in changed})

    def loss(self, module: nn.Module) -> float:
        """Mean cross-entropy of a network of the same classes on the images that score channels; NaN without any."""
        losses = list[float]()
        with torch.no_grad():
            for values, labels in self._batches():
                losses.append(float(functional.cross_entropy(per_class(module.eval()(values)), labels)))
        return sum(losses) / len(losses) if losses else math.nan

    def _scores(self, kept: dict[str, Tensor], section: PruneSection, generator: torch.Generator) -> dict[str, Tensor]:
        """Scores of the network as it is now; those of the whole one are computed once."""
        whole = all(len(kept[head]) == width for head, width in self.width.items())
        if whole and section.score in self._whole:
            return self._whole[section.score]
        narrow = _narrow(self._module, self._size, PrunePlan(_lists(kept, self.groups), self.width))
        scores = _scores(narrow, self._size, self.groups, section.score, self._batches, generator)
        if not scores:
            raise InputError(f'prune.score = "{section.score}": it applies to no group of channels of this network')
        if whole:
            self._whole[section.score] = scores
        return scores


def decide(module: nn.Module, size: Size, section: PruneSection, batches: Batches, aim: Aim) -> PrunePlan:
    """One plan; arguments and errors are those of `Planner`."""
    return Planner(module, size, section, batches).plan(aim)


def _floors(round_to: int) -> tuple[int, ...]:
    """How few channels each group may have, and the fewest that fill a vector."""
    return tuple(dict.fromkeys((round_to, -(-VECTOR // round_to) * round_to)))


def _free(module: nn.Module, size: Size, section: PruneSection) -> list[Group]:
    """The groups that the recipe allows to prune."""
    names = [name for name, _ in module.named_modules() if name]
    for name in section.keep:
        if name not in names:
            raise InputError(f"prune.keep = {choices.no_such(name, names, 'layer')}")
    kept = tuple(f"{name}." for name in section.keep)
    groups = [
        group
        for group in ChannelGraph(module, size).groups()
        if group.channels > section.round_to
        and not any(f"{member.layer}.".startswith(kept) for member in group.members if member.role == "writes" and kept)
    ]
    unusual = unusual_layers(module, size)
    groups = [
        group
        for group in groups
        if unusual.isdisjoint(member.layer for member in group.members) or _holds(module, group, size)
    ]
    if not groups:
        raise InputError(
            f"prune: no group of channels can be pruned (more than round_to = {section.round_to} channels, no grouped, "
            "split or computed ones, not in prune.keep)"
        )
    return groups


def _holds(module: nn.Module, group: Group, size: Size) -> bool:
    """Whether the network without half of the channels computes what it does when nothing reads them."""
    plan = PrunePlan({group.head: tuple(range(group.channels // 2))}, {group.head: group.channels})
    try:
        check(module, _narrow(module, size, plan), plan, size)
    except (
        Shortfall,
        RuntimeError,
        TypeError,
        KeyError,
        AttributeError,
    ):  # computed weights cannot be cut
        return False
    return True


def _narrow(module: nn.Module, size: Size, plan: PrunePlan) -> nn.Module:
    narrow = copy.deepcopy(module)
    apply(narrow, plan, size)
    return narrow


def _lists(kept: dict[str, Tensor], groups: Sequence[Group]) -> dict[str, tuple[int, ...]]:
    return {group.head: tuple(kept[group.head].tolist()) for group in groups}


def _scores(
    module: nn.Module,
    size: Size,
    groups: Sequence[Group],
    name: str,
    batches: Batches,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Scores of each group's channels in the network as it is now; groups the criterion says nothing of are absent."""
    criterion = score(name)
    graph, norms = ChannelGraph(module, size), followed_by(module, size)
    now = [graph.group(group.head) for group in groups]
    sums: dict[str, Tensor] = {}

    def add(gradients: bool) -> None:
        for group in now:
            assert group is not None
            scores = criterion.scores(parts(module, group, norms, gradients), generator)
            if scores is not None:
                sums[group.head] = sums.get(group.head, 0) + scores

    if not criterion.GRADIENTS:
        add(gradients=False)
        return sums
    seen = 0
    for values, labels in batches():
        module.zero_grad()
        with torch.enable_grad():
            torch.autograd.backward(functional.cross_entropy(per_class(module.eval()(values)), labels))
        add(gradients=True)
        seen += 1
    if not seen:
        raise InputError(f'prune.score = "{name}": needs images to train on')
    if not all(bool(each.isfinite().all()) for each in sums.values()):
        raise Shortfall("prune: the gradients are NaN or infinite; check the checkpoint and model.mean / model.std")
    return sums


def _blocks(group: Group, scores: Tensor, section: PruneSection, scale: str) -> list[Block]:
    """The channels that a group can lose, least important first; at least ``round_to`` channels stay."""
    order = torch.argsort(scores, stable=True).tolist()
    width, step = len(order), section.round_to
    unit = scores.mean().clamp_min(1e-30) if scale == "relative" else torch.ones(())
    made = []
    start, stop = 0, width % step or step
    while width - stop >= step:
        chosen = tuple(order[start:stop])
        left = width - stop
        beyond = float(left < FLOOR * group.channels)
        if section.scope == "local":
            rank: tuple[float, ...] = (-left / group.channels,)
        else:
            rank = (beyond, float(scores[list(chosen)].mean() / unit))
        made.append(Block((*rank, start), group.head, chosen, bool(beyond), float(scores[list(chosen)].sum() / unit)))
        start, stop = stop, stop + step
    return made
