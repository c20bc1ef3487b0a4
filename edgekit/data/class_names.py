"""The order of the classes. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import get_args

from edgekit.config.recipe import DataSection, Order


def sort(names: Iterable[str], order: Order) -> tuple[str, ...]:
    """Class names as text (torchvision, Keras: 0, 1, 10, 2) or naturally (timm: 0, 1, 2, 10, whatever their case)."""

    def natural(name: str) -> list[tuple[int, str]]:
        parts = re.split(r"(\d+)", name.lower())  # digits at the odd places
        return [(int(part), "") if place % 2 else (0, part) for place, part in enumerate(parts)]

    return tuple(sorted(sorted(names), key=natural if order == "natural" else None))


def are_found(data: DataSection, labels: Iterable[str]) -> bool:
    """Whether classes are found by their names, so that ``data.order`` and ``data.labels`` can number them."""
    in_words = data.labels is not None or not all(label.isdecimal() for label in labels)
    return data.source == "image_folder" or (data.source == "csv_labels" and in_words)


def described(data: DataSection, labels: Sequence[str]) -> str:
    """The classes in their order, and whether another way of sorting would give another one."""
    text = f"{len(labels)} classes: {_some(labels)}"
    if data.labels is not None:
        return f"{text} (the order of data.labels)"
    if not are_found(data, labels):
        return text
    ways = {word: sort(labels, word) for word in get_args(Order)}
    here = data.order or "text"
    other = next((word for word, names in ways.items() if names != tuple(labels)), None)
    if other is None:
        return text
    return f'{text} (sorted as {here}; data.order = "{other}" gives {_some(ways[other], 4)})'


def _some(labels: Sequence[str], most: int = 8) -> str:
    return ", ".join(labels) if len(labels) <= most + 2 else ", ".join((*labels[:most], "...", labels[-1]))
