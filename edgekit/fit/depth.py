"""A network without the residual blocks that matter least for what they cost, to be narrowed like any other."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

from edgekit.fit.networks import Whole
from edgekit.fit.widths import STYLES, Budget, Style
from edgekit.prune import apply, blocks
from edgekit.search import pruning_choice
from edgekit.types import PrunePlan

SAVED = 1 / 3
"""Share of the excess over the budget that is saved by leaving out blocks; narrower layers save the rest."""


def style(dropped: tuple[str, ...]) -> Style:
    """How widths are chosen where some blocks are left out."""
    of = next(style for style in STYLES if style.id == "absolute-per-ms")
    return replace(of, id=f"{of.id}-shallow", how=f"without {', '.join(dropped)}; {of.how}")


def expendable(whole: Whole, budget: Budget) -> tuple[str, ...]:
    """The blocks that add the least to the loss for what they take of the budget, until `SAVED` of the excess is saved.

    The loss is that of the training images which score channels, once without each block.

    Args:
        whole: the trained network.
        budget: the limits, with a latency model for each device; the one that is exceeded most counts.

    Returns:
        Their names, in the network's order; none if the network has no residual blocks, or only those that are kept.
    """
    shapes = whole.planner.cost.shapes({})
    share, known = budget.share(shapes), blocks.residual(whole.module, whole.size)
    price: dict[str, float] = {}
    own = whole.planner.loss(whole.module)
    for name in known:
        kept = any(f"{layer}.".startswith(f"{name}.") or name.startswith(f"{layer}.") for layer in whole.section.keep)
        saved = share - budget.share([shape for shape in shapes if not shape.name.startswith(f"{name}.")])
        if kept or saved <= 0 or math.isnan(own):
            continue
        without = copy.deepcopy(whole.module)
        blocks.drop(without, [name], whole.size)
        price[name] = (whole.planner.loss(without) - own) / saved
    chosen = list[str]()
    left = list(shapes)
    for name in sorted(price, key=lambda each: price[each]):
        if budget.share(left) <= share - SAVED * (share - 1):
            break
        chosen.append(name)
        left = [shape for shape in left if not shape.name.startswith(f"{name}.")]
    return tuple(name for name in known if name in chosen)


def without(whole: Whole, dropped: tuple[str, ...]) -> Whole:
    """The network without some blocks, as one that can be narrowed.

    Raises:
        Shortfall: it does not compute what the network does when these blocks add nothing.
    """
    module, plan = copy.deepcopy(whole.module), PrunePlan({}, {}, dropped)
    apply.apply(module, plan, whole.size)
    apply.check(whole.module, module, plan, whole.size)
    planner = pruning_choice.planner(module, whole.section, whole.spec, whole.index, whole.root)
    files = whole.files.of(module, "shallow")
    return replace(whole, module=module, planner=planner, files=files, dropped=dropped)
