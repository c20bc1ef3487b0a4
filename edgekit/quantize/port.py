"""What every rule for the range of an activation offers."""

from __future__ import annotations

from typing import Protocol, cast

from edgekit import choices
from edgekit.quantize.histogram import Cost, Histogram, Range


class Rule(Protocol):
    """A module of ``edgekit/quantize/ranges``."""

    def limits(self, seen: Histogram, cost: Cost) -> Range:
        """The range of one activation tensor, in its own real values.

        Args:
            seen: all its values over the calibration images: extremes and a histogram.
            cost: what the output of the network loses where this tensor is put on the int8 grid over (low, high); each
                call runs the network on a few images.

        Returns:
            The range; zero need not be in it. Its `rule` is the module's name.
        """


def rule(name: str, where: str = "quantize.range") -> Rule:
    """The module of ``edgekit/quantize/ranges`` with that name.

    Raises:
        InputError: there is no such rule.
    """
    return cast(Rule, choices.pick("edgekit.quantize.ranges", name, where))
