"""A CSV file that names each image and its class."""

from __future__ import annotations

from pathlib import Path

from edgekit import choices
from edgekit.config.recipe import DataSection
from edgekit.data import _table
from edgekit.data.listing import (
    SPLIT_WORDS,
    Item,
    Listing,
    Problem,
    composed,
    label_numbers,
    read_labels,
    source_path,
    spelled,
)
from edgekit.errors import InputError
from edgekit.runtime import files
from edgekit.types import Split

USES: tuple[str, ...] = ("path", "labels", "order", "label_offset")


def listing(data: DataSection, base: Path, work: Path) -> Listing:
    """List the images of a CSV file with the columns ``file``, ``class`` (or ``label``) and, optionally, ``split``.

    Rows whose image is missing, or no regular file, are problems of the listing if ``data.clean.unreadable`` is
    "drop" or there is a ``data.exclude``, else errors.

    File paths start from the CSV file's folder. If every class is an integer, ``data.label_offset`` is added and the
    result is the row (from 0) in ``data.labels``; without that file the numbers are the names. Otherwise classes
    are names, numbered in the order of ``data.labels``, or sorted by ``data.order`` without it.

    Args:
        data: `path` is the CSV file.
        base: the recipe's folder.
        work: not used.

    Raises:
        InputError: missing file or column, an empty table, a row with a missing image, a class out of range, an
            unknown split or a file listed twice; the message gives the row's line number in the file.
    """
    file = source_path(data.path, base, "csv_labels").resolve()
    lost = data.clean.unreadable == "drop" or data.exclude is not None  # which may name them
    rows, problems = _read(file, lost)
    given = read_labels(data.labels, base) if data.labels else None
    try:
        numbers = [int(label) for _, label, _, _ in rows]
    except ValueError:
        labels, by_name = label_numbers({label for _, label, _, _ in rows}, given, data.order)
        if data.label_offset:
            raise InputError(f"data.label_offset = {data.label_offset}: {file} has class names; remove it") from None
        numbers = [by_name[label] for _, label, _, _ in rows]
    else:
        if data.order is not None:
            raise InputError(f'data.order = "{data.order}": {file} numbers its classes itself; remove it')
        numbers = [number + data.label_offset for number in numbers]
        labels = given or tuple(str(number) for number in range(max(numbers) + 1))
    for number, (_, label, _, line) in zip(numbers, rows, strict=True):
        if not 0 <= number < len(labels):
            offset = f" + data.label_offset {data.label_offset}" if data.label_offset else ""
            where = f'data.labels = "{data.labels}" names' if given else "the classes are"
            raise InputError(f"{file}: row {line}: class {label}{offset} is out of range; {where} 0..{len(labels) - 1}")
    items = [Item(path, number, split) for number, (path, _, split, _) in zip(numbers, rows, strict=True)]
    return Listing(file.parent, labels, tuple(sorted(items, key=lambda item: item.path)), tuple(problems))


def _read(file: Path, drop: bool) -> tuple[list[tuple[str, str, Split | None, int]], list[Problem]]:
    """(path, class, split, line) of each row; and, if those are to be dropped, the files that cannot be read."""
    columns, table = _table.read(file)
    class_column = next((name for name in ("class", "label") if name in columns), "class")
    for column in ("file", class_column):
        if column not in columns:
            raise InputError(f"{file}: {choices.no_such(column, columns, 'column')}")
    if not table:
        raise InputError(f"{file}: no rows below the header")
    lines: dict[str, int] = {}
    problems: list[Problem] = []
    lost: set[str] = set()
    rows: list[tuple[str, str, Split | None, int]] = []
    for row, line in table:
        path = spelled(file.parent, row["file"].strip().replace("\\", "/"))
        label = composed(row[class_column].strip())
        if not path or not label:
            raise InputError(f'{file}: row {line}: "file" and "{class_column}" must not be empty')
        if path in lines:
            raise InputError(f"{file}: row {line}: {path} is already listed in row {lines[path]}")
        problem = files.trouble(str(file.parent / path))
        if problem and not drop:
            missing = problem.startswith("no such file")
            raise InputError(f"{file}: row {line}: {f'no such file {path}' if missing else f'{path}: {problem}'}")
        word = row["split"].strip() if "split" in columns else None
        if word is not None and word not in SPLIT_WORDS:
            raise InputError(f"{file}: row {line}: {choices.no_such(word, SPLIT_WORDS, 'split')}")
        lines[path] = line
        if problem:
            problems.append((path, f"row {line}: {problem}"))
            lost.add(label)
        else:
            rows.append((path, label, SPLIT_WORDS[word] if word else None, line))
    for label in sorted(lost - {label for _, label, _, _ in rows}):
        raise InputError(f'{file}: no image of class "{label}" can be read; add images or remove it')
    return rows, problems
