"""Work done ahead of its consumer."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

Item = TypeVar("Item")
Done = TypeVar("Done")

_PATIENCE = 1.0
"""Seconds to wait for the threads when the consumer leaves; an iterable that blocks keeps one until its next item."""


def ahead(
    items: Iterable[Item],
    work: Callable[[Item], Done],
    depth: int,
    threads: int = 1,
    lasting: Callable[[Item], bool] = lambda item: True,
) -> Generator[Done, None, None]:
    """``map(work, items)`` with threads that process the next items while the consumer is busy.

    Args:
        items: iterated in a thread of its own.
        work: done in that thread, or in `threads` others if `threads` is above 1.
        depth: how many results may wait; each further thread adds one.
        threads: number of workers.
        lasting: whether an item stays as it is when the next one is requested. One that does not (a camera's buffer)
            is processed before that.

    Yields:
        What `work` returns, in order. What it or `items` raises is raised in its place, and ends the generator.
    """
    ready: queue.Queue[queue.SimpleQueue[tuple[str, Any]]] = queue.Queue(depth + threads - 1)
    tasks: queue.SimpleQueue[tuple[Item, queue.SimpleQueue[tuple[str, Any]]] | None] = queue.SimpleQueue()
    failed, left = threading.Event(), threading.Event()

    def finish(item: Item, place: queue.SimpleQueue[tuple[str, Any]]) -> None:
        if left.is_set():
            return
        try:
            place.put(("item", work(item)))
        except BaseException as error:  # raised again by the consumer
            failed.set()
            place.put(("error", error))

    def produce() -> None:
        end: tuple[str, Any] = ("end", None)
        try:
            for item in items:
                place: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
                ready.put(place)
                if helpers and lasting(item):
                    tasks.put((item, place))
                else:
                    finish(item, place)
                if failed.is_set() or left.is_set():
                    break
        except BaseException as error:
            end = ("error", error)
        for _ in helpers:
            tasks.put(None)
        place = queue.SimpleQueue()
        place.put(end)
        if not left.is_set():
            ready.put(place)

    def help_out() -> None:
        for item, place in iter(tasks.get, None):
            finish(item, place)

    def thread(target: Callable[[], None]) -> threading.Thread:
        return threading.Thread(target=target, name="edgekit-stream", daemon=True)

    helpers = [thread(help_out) for _ in range(threads if threads > 1 else 0)]
    everyone = [*helpers, thread(produce)]
    for each in everyone:
        each.start()
    try:
        while True:
            kind, value = ready.get().get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        left.set()
        while not ready.empty():  # a thread that waits for room continues, and sees that it should stop
            ready.get_nowait()
        for each in everyone:
            each.join(_PATIENCE)
