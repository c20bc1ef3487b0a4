"""The widest pruned network within a share of the unpruned one's latency: planned by prediction, then measured."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from edgekit.console import Console
from edgekit.errors import InputError, Shortfall
from edgekit.latency.model import LatencyModel
from edgekit.prune.aim import Aim
from edgekit.prune.planning import Planner
from edgekit.search.stopwatch import Stopwatch
from edgekit.types import PrunePlan

TRIES = 3
"""Most networks that are timed for one target."""
AIM, SLACK = 0.98, 0.05
"""What is planned for, and how far below its target a latency may end, as shares of the target."""


def search(
    planner: Planner,
    model: LatencyModel,
    narrow: Callable[[PrunePlan], nn.Module],
    stopwatch: Stopwatch,
    target: float,
    console: Console,
) -> tuple[PrunePlan, nn.Module, tuple[float, float]]:
    """Plan for the target, measure, and correct the plan's budget by what was measured.

    Args:
        planner: of the unpruned network.
        model: predicts its latency on the stopwatch's device, in its engine.
        narrow: the network that a plan leaves.
        stopwatch: measures a network against the unpruned one.
        target: share of the unpruned network's latency.
        console: progress.

    Returns:
        Plan, pruned network, and milliseconds of the unpruned network and of the pruned one.

    Raises:
        InputError: nothing of the network can be pruned so far that it would be fast enough.
        Shortfall: none of the networks tried is fast enough.
    """
    share, tried = AIM * target, list[float]()
    best: tuple[float, PrunePlan, nn.Module, tuple[float, float]] | None = None
    reason, last = "", None
    for _ in range(TRIES):
        aim = Aim("prune.latency", min(share, 1.0), lambda cost: lambda gone: model.predict(cost.shapes(gone)).ms, True)
        try:
            plan = planner.plan(aim)
        except InputError as error:
            reason = f" ({error})"
            break
        if plan == last:
            break
        last, module = plan, narrow(plan)
        before, after = stopwatch(module)
        ratio = after / before
        tried.append(ratio)
        console.say(f"  planned for {share:.0%} of the latency: {ratio:.0%} measured ({after:.3g} of {before:.3g} ms)")
        if ratio <= target and (best is None or ratio > best[0]):
            best = ratio, plan, module, (before, after)
        if target - SLACK * target <= ratio <= target:
            break
        share = corrected(share, ratio, AIM * target)
    if best is None:
        fastest = (
            f"the fastest network tried takes {min(tried):.2f} of the unpruned one's time" if tried else "none tried"
        )
        raise Shortfall(f"prune.latency = {target:g}: not reached on {stopwatch.where}; {fastest}{reason}")
    return best[1:]


def corrected(planned: float, measured: float, aim: float, whole: tuple[float, float] = (1.0, 1.0)) -> float:
    """What to plan for next: on the line through the whole network and the last one that was measured.

    Args:
        planned: for the last one.
        measured: of it.
        aim: what is to be measured.
        whole: the whole network, as it is predicted and as it was measured.

    Returns:
        At least a third of `planned`: far from what was measured, the line means little.
    """
    if measured >= whole[1] or planned >= whole[0]:  # noise, or nothing was pruned
        return planned * aim / measured
    slope = (whole[0] - planned) / (whole[1] - measured)
    return max(planned + (aim - measured) * slope, planned / 3)
