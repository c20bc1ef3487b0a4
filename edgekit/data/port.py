"""What every source of images offers."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, cast

from edgekit import choices
from edgekit.config.recipe import DataSection
from edgekit.data.listing import Listing


class Source(Protocol):
    """A module of ``edgekit/data/sources``."""

    def listing(self, data: DataSection, base: Path, work: Path) -> Listing:
        """List the images and their labels, with the splits where the source has some of its own.

        Args:
            data: the recipe's section.
            base: the recipe's folder, where relative paths start.
            work: the stage's folder; a source without image files writes them to ``work/images``.

        Raises:
            InputError: the section names nothing that can be listed; one line.
        """


def source(name: str, where: str = "data.source") -> Source:
    """The module of ``edgekit/data/sources`` with that name.

    Raises:
        InputError: there is no such source.
    """
    return cast(Source, choices.pick("edgekit.data.sources", name, where))
