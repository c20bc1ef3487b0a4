"""What every reader of model files offers."""

from __future__ import annotations

from typing import Protocol, cast

from edgekit import choices
from edgekit.inspect.file_report import FileReport


class Reader(Protocol):
    """A module of ``edgekit/inspect/readers``."""

    ENGINES: tuple[str, ...]
    """Modules of ``edgekit/runtime/engines`` that run files of this format."""

    def matches(self, data: bytes) -> bool:
        """Whether these may be the bytes of a file of this format. Takes any bytes and never raises."""

    def inspect(self, data: bytes, file: str) -> FileReport:
        """Read a file, in a process that may crash (`edgekit.inspect._worker`).

        Args:
            data: its bytes, which may be damaged or hostile.
            file: its name, for the report.

        Raises:
            Exception: it is damaged; the first line of the message says how.
            MissingPackage: the package that reads it is not installed.
        """


def reader(name: str, where: str = "kind") -> Reader:
    """The module of ``edgekit/inspect/readers`` with that name.

    Raises:
        InputError: there is no such reader.
    """
    return cast(Reader, choices.pick("edgekit.inspect.readers", name, where))
