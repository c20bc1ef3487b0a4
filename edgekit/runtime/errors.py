"""The one error of the runtime, independent of the rest of edgekit."""

from __future__ import annotations


class RuntimeFault(Exception):
    """A model, an engine or a provider cannot be used; the message is one clear line."""


def first_line(error: BaseException) -> str:
    """What went wrong, without the stack traces that engines put into their messages."""
    if isinstance(error, MemoryError):
        return "out of memory"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
