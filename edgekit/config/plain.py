"""What no text or number of the user may be, whatever it is for. Standard library only."""

from __future__ import annotations

import datetime
import math
import unicodedata
from collections.abc import Iterator
from typing import Any, NamedTuple

from edgekit.runtime import terminal

DEPTH = 16
"""Tables and arrays inside each other; no key needs more than four."""
LARGEST = 2**63 - 1
"""TOML's integers are of 64 bits; Python's parser takes longer ones."""
SHOWN = 80
"""Characters of a value that a message repeats."""
PROSE = ("description",)
"""Texts that may have several lines."""

Place = tuple[str | int, ...]


class Fault(NamedTuple):
    """A value that cannot be used under any key."""

    place: Place
    value: str
    """As a message shows it; empty if that says nothing."""
    why: str


def fault(raw: dict[str, Any]) -> Fault | None:
    """The first value that cannot be used under any key; None if there is none.

    Walks without recursion, as the nesting is the user's.

    Args:
        raw: parsed TOML or JSON.
    """
    left: list[tuple[Place, Any]] = [((), raw)]
    while left:
        place, value = left.pop()
        if len(place) > DEPTH:
            return Fault(place[:3], "", f"nested more than {DEPTH} deep")
        found = _why_not(place, value)
        if found:
            return Fault(place, *found)
        left += reversed(list(_inside(place, value)))
    return None


def is_plain(text: str) -> bool:
    """Whether a text has one line of whole characters: no control characters, no bytes that are not UTF-8."""
    return not any(map(_is_control, text))


def shown(text: str) -> str:
    """A text in quotes, short, as a terminal may show it."""
    return f'"{terminal.line(short(text))}"'


def value(given: Any) -> str:
    """A value as a message shows it: short, texts in quotes."""
    return shown(given) if isinstance(given, str) else short(str(given))


def short(text: str) -> str:
    """The beginning of a text that is too long for a message."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _is_control(char: str) -> bool:
    """Control characters, line ends of Unicode, and halves of characters (from bytes that are not UTF-8)."""
    return unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")


def _inside(place: Place, value: Any) -> Iterator[tuple[Place, Any]]:
    if isinstance(value, dict):
        yield from (((*place, str(key)), each) for key, each in value.items())
    elif isinstance(value, list):
        yield from (((*place, number), each) for number, each in enumerate(value))


def _why_not(place: Place, value: Any) -> tuple[str, str] | None:
    """The value as a message shows it, and what is wrong with it."""
    if isinstance(value, dict):
        strange = next((key for key in value if not is_plain(str(key))), None)
        return None if strange is None else ("", f"the key {shown(strange)} holds a control character")
    if isinstance(value, str):
        allowed = "\t\n\v\f\r" if place in [(key,) for key in PROSE] else ""
        if any(_is_control(char) and char not in allowed for char in value):
            return shown(value), "it holds a control character, or is not UTF-8"
    elif isinstance(value, int) and not -LARGEST - 1 <= value <= LARGEST:
        return "", f"integers go from {-LARGEST - 1} to {LARGEST}"  # Python refuses to print longer ones
    elif isinstance(value, float) and not math.isfinite(value):
        return f"{value}", "input should be a finite number"
    elif isinstance(value, datetime.date | datetime.time):
        return f"{value}", "no key takes a date or a time; put it in quotes if text is meant"
    return None
