"""Text of others on a terminal: names in files, folders and on devices, which may hold escape sequences.

ECMA-48 control sequences begin with a control character (C0 or C1); Unicode's bidirectional controls and separators
make text look like another. All of them are shown as Python would write them in a string.
"""

from __future__ import annotations

import io
import json
from typing import Any

_JOINERS = "\u200c\u200d"
"""Not printable by themselves, but needed between letters and in emoji."""


def line(text: str) -> str:
    r"""One line of plain text: ``\x1b`` and ``\n`` for what cannot be printed, ``\udcff`` for a lone surrogate."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in _JOINERS else ascii(c)[1:-1] for c in text)


def lines(text: str) -> str:
    """The same for text of several lines: ends of lines and tabs stay."""
    return "\n".join("\t".join(map(line, row.split("\t"))) for row in text.split("\n"))


def json_line(row: Any) -> str:
    r"""JSON on one line, letters as they are; what cannot be printed, a lone surrogate included, as ``\u009b``."""
    text = json.dumps(row, ensure_ascii=False)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in _JOINERS else json.dumps(c)[1:-1] for c in text)


class Plain(io.TextIOWrapper):
    """A stream that shows everything written to it as `lines` does."""

    def write(self, text: str) -> int:
        """Write it; returns the number of characters given."""
        super().write(lines(text))
        return len(text)
