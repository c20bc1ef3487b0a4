"""CSV files that name images. Standard library only."""

from __future__ import annotations

import csv
from pathlib import Path

from edgekit.errors import InputError
from edgekit.runtime import files

Rows = list[tuple[dict[str, str], int]]
"""Cells by column, and the line in the file that the row ends in."""


def read(file: Path) -> tuple[list[str], Rows]:
    """Columns and rows of a CSV file; a cell that a row lacks is empty.

    Raises:
        InputError: it is no file that can be read to its end, not UTF-8, or not CSV.
    """
    if problem := files.trouble(str(file)):
        raise InputError(f"{file}: cannot be read as CSV: {problem}")
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            rows = [({key: value or "" for key, value in row.items() if key}, reader.line_num) for row in reader]
            return list(reader.fieldnames or ()), rows
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file}: cannot be read as CSV: {error}") from None
