"""Work ahead of the one who waits for it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

Item = TypeVar("Item")
Done = TypeVar("Done")

_PATIENCE = 1.0
"""Seconds to wait for the thread when the consumer leaves; an iterable that blocks keeps it until its next item."""


def ahead(items: Iterable[Item], work: Callable[[Item], Done], depth: int) -> Generator[Done, None, None]:
    """``map(work, items)`` with a thread that takes the next items while the consumer is busy.

    Args:
        items: iterated in that thread.
        work: done in that thread.
        depth: how many finished ones may wait.

    Yields:
        What `work` returns, in order. What it or `items` raises is raised in its place, and ends the generator.
    """
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    left = threading.Event()

    def produce() -> None:
        try:
            for item in items:
                if left.is_set():
                    return
                ready.put(("item", work(item)))
                if left.is_set():
                    return
            ready.put(("end", None))
        except BaseException as error:  # raised again by the consumer
            ready.put(("error", error))

    thread = threading.Thread(target=produce, name="edgekit-stream", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        left.set()
        while not ready.empty():  # a thread that waits for room goes on, and sees that it is over
            ready.get_nowait()
        thread.join(_PATIENCE)
