"""What no other beats in everything. Standard library only."""

from __future__ import annotations

from collections.abc import Sequence


def front(losses: Sequence[Sequence[float]]) -> list[int]:
    """Places of the rows that no other row beats or equals in every column; of equal rows, the first.

    With a single column that is the best row.

    Args:
        losses: less is better; rows of equal length.
    """

    def beaten(place: int, own: Sequence[float]) -> bool:
        return any(
            all(a <= b for a, b in zip(other, own, strict=True)) and (tuple(other) != tuple(own) or rank < place)
            for rank, other in enumerate(losses)
            if rank != place
        )

    return [place for place, own in enumerate(losses) if not beaten(place, own)]
