"""Which channels go first: the least important ones, or those that matter least for what they cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgekit.prune.aim import CostOf
from edgekit.prune.groups import Group

AHEAD = 4
"""Blocks of a group that are weighed together: kernels compute whole tiles, so that one block alone may save nothing,
and the next one twice as much."""
LITTLE = 1e-9
"""Share of the cost below which a removal saves nothing."""


@dataclass(frozen=True)
class Block:
    """Channels of a group that are removed at once, so that a multiple of ``round_to`` stays."""

    order: tuple[float, ...]
    """Sort key of `by_order`: the smallest is removed first."""
    group: str
    channels: tuple[int, ...]
    beyond: bool
    """Whether the group is so narrow by then that others go first."""
    value: float
    """Sum of the channels' scores."""


Blocks = Mapping[str, Sequence[Block]]
"""Of each group, by its head, in the order in which they can go."""


def by_order(blocks: Blocks, gone: Mapping[str, int], cost: CostOf, target: float) -> dict[str, set[int]]:
    """Remove blocks in their `Block.order` until the network costs at most `target`.

    Returns:
        The channels removed, by group.
    """
    now, drop = dict(gone), defaultdict[str, set[int]](set)
    for block in sorted((each for group in blocks.values() for each in group), key=lambda block: block.order):
        if cost(now) <= target:
            break
        now[block.group] += len(block.channels)
        drop[block.group].update(block.channels)
    return dict(drop)


def by_value(
    blocks: Blocks, gone: Mapping[str, int], cost: CostOf, target: float, near: Mapping[str, set[str]]
) -> dict[str, set[int]]:
    """Remove what has the least value for what it costs, until the network costs at most `target`.

    After each removal the neighbours' savings are computed again, as what a layer costs depends on the channels that it
    reads as much as on those that it writes.

    Args:
        blocks: what can go.
        gone: channels removed before, by group.
        cost: of a network.
        target: in the same unit.
        near: groups that share a layer with each group (`neighbours`).

    Returns:
        The channels removed, by group.
    """
    now, place = dict(gone), dict.fromkeys(blocks, 0)
    drop = defaultdict[str, set[int]](set)
    total = cost(now)
    best: dict[str, tuple[bool, float, int]] = {}
    stale = set(blocks)
    while total > target:
        for head in stale:
            best.pop(head, None)
            if left := blocks[head][place[head] : place[head] + AHEAD]:
                best[head] = _best(left, now, cost, total)
        if not best:
            break
        head = min(best, key=lambda each: (*best[each], each))
        for block in blocks[head][place[head] : place[head] + best[head][2]]:
            now[head] += len(block.channels)
            drop[head].update(block.channels)
            place[head] += 1
        total = cost(now)
        stale = near[head] & set(blocks)
    return dict(drop)


def _best(left: Sequence[Block], now: Mapping[str, int], cost: CostOf, total: float) -> tuple[bool, float, int]:
    """Of the next blocks of one group: how many are best removed together, and the value lost for each unit saved."""
    found = []
    value, channels = 0.0, now[left[0].group]
    for count, block in enumerate(left, 1):
        value += block.value
        channels += len(block.channels)
        saved = total - cost({**now, block.group: channels})
        found.append((block.beyond, value / max(saved, LITTLE * total), count))
    return min(found)


def neighbours(groups: Sequence[Group]) -> dict[str, set[str]]:
    """The groups that have a layer in common with each, itself included."""
    users = defaultdict[str, set[str]](set)
    for group in groups:
        for member in group.members:
            users[member.layer].add(group.head)
    return {group.head: set().union(*(users[member.layer] for member in group.members)) for group in groups}
