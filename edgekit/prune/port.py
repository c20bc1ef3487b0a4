"""What every pruning score offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor

from edgekit import choices
from edgekit.prune.groups import Part


class Score(Protocol):
    """A module of ``edgekit/prune/scores``."""

    GRADIENTS: bool
    """Whether it asks for gradients: scores are then summed over batches of training images."""

    def scores(self, parts: Sequence[Part], generator: torch.Generator) -> Tensor | None:
        """How much each channel of a group matters.

        Args:
            parts: the group's layers: weights float32 [channels, n], gradients likewise where `GRADIENTS` asks for
                them, else None.
            generator: seeded by ``prune.seed``.

        Returns:
            float32 [channels], larger is more important, on any scale of the group's own; None where the score says
            nothing of this group, which then stays whole.
        """


def score(name: str, where: str = "prune.score") -> Score:
    """The module of ``edgekit/prune/scores`` with that name.

    Raises:
        InputError: there is no such score.
    """
    return cast(Score, choices.pick("edgekit.prune.scores", name, where))
