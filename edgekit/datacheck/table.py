"""Tables that a recipe takes back."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence


def text(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """CSV with a line of column names; lines end in a line feed."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(rows)
    return stream.getvalue()
