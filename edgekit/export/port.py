"""What every exporter offers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, cast

import torch

from edgekit import choices
from edgekit.types import Artifact, Size

Rewrites = Sequence[str] | Callable[[bytes], Sequence[str]] | None
"""Names of the rewrites to apply where they match, None for all of them; or what chooses, given the converted file."""


class Exporter(Protocol):
    """A module of ``edgekit/export/formats``."""

    REFUSED: dict[str, str]
    """Precisions that this format does not have, and why."""

    def export(
        self,
        graph: torch.nn.Module,
        size: Size,
        precision: str,
        folder: Path,
        rewrites: Rewrites = None,
        keep_float: Sequence[str] | None = (),
    ) -> Artifact:
        """Write ``model-<precision>`` with the suffix of the format (`edgekit.types.SUFFIXES`).

        Args:
            graph: "fp32": a float network in eval mode; "int8" and "int16x8": a quantized graph whose weights are
                quantized in the graph; others: what `edgekit.export.sources.rounded` gives. Takes NCHW.
            size: shape of an image.
            precision: a word of ``export.precisions``.
            folder: where to write.
            rewrites: of ``edgekit/lower/rewrites``, for this format.
            keep_float: modules of an integer net that may compute in float, besides its float weighted layers; None:
                all.

        Returns:
            What was written; its id is ``<format>-<precision>``, its path relative to `folder`.

        Raises:
            Shortfall: the converter refuses the network, or an integer file would compute in float what was not asked
                to.
        """

    def convert(self, graph: torch.nn.Module, size: Size, precision: str, folder: Path) -> bytes:
        """The file before any rewrite; arguments and errors as for `export`."""

    def lowered(self, data: bytes, rewrites: Sequence[str] | None = None) -> tuple[bytes, tuple[str, ...]]:
        """A converted file with rewrites applied, and the names of those that matched.

        Args:
            data: from `convert`; it stays as it is.
            rewrites: names; None is all of this format's.
        """


def exporter(name: str, where: str = "export.formats") -> Exporter:
    """The module of ``edgekit/export/formats`` with that name.

    Raises:
        InputError: there is no such exporter.
    """
    return cast(Exporter, choices.pick("edgekit.export.formats", name, where))
