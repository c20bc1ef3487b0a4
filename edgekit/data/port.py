"""What every source of images offers."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, cast

from edgekit import choices
from edgekit.config import plain
from edgekit.config.recipe import DataSection
from edgekit.data.listing import Listing
from edgekit.errors import InputError

OWN = ("path", "name", "labels", "order", "label_offset")
"""Keys of [data] that not every source uses."""


class Source(Protocol):
    """A module of ``edgekit/data/sources``."""

    USES: tuple[str, ...]
    """The keys of `OWN` that it reads; any other that the recipe sets is refused."""

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


def check(data: DataSection) -> None:
    """Refuse keys that the source does not use: whoever sets them expects something else to happen.

    Raises:
        InputError: one line per key.
    """
    used = source(data.source).USES
    fields = DataSection.model_fields
    strange = [key for key in OWN if key not in used and getattr(data, key) != fields[key].default]
    if strange:
        takes = f"; it takes {', '.join(used)}" if used else ""
        raise InputError(
            "\n".join(
                f'data.{key} = {plain.value(getattr(data, key))}: data.source = "{data.source}" does not use it'
                f"{takes}; remove it (--set data.{key}=), or name another source"
                for key in strange
            )
        )
