"""What every format of a report offers."""

from __future__ import annotations

from typing import Protocol, cast

from edgekit import choices
from edgekit.report.contents import Report


class Format(Protocol):
    """A module of ``edgekit/report/formats``."""

    SUFFIX: str
    """Suffix of its file, without the dot."""

    def render(self, report: Report) -> str:
        """The whole file. Times are in ms, shares 0..1; a value of None is shown as not measured."""


def format_called(name: str, where: str = "report") -> Format:
    """The module of ``edgekit/report/formats`` with that name.

    Raises:
        InputError: there is no such format.
    """
    return cast(Format, choices.pick("edgekit.report.formats", name, where))
