"""Where the operators of a model ran: what was asked for, what ONNX Runtime's profiler saw, and the difference.

A provider is asked for by a word such as ``cuda``; ``cuda+cpu`` lets the CPU run what the provider does not take.
"""

from __future__ import annotations

import json
import os
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from edgekit.runtime.errors import RuntimeFault, first_line

FALLBACK = "+cpu"
Placement = dict[str, dict[str, int]]
"""Operators that ran, by provider and by type."""

_SHAPES = frozenset({"int64", "int32", "bool"})


def asked(provider: str) -> tuple[str, bool]:
    """The word, and whether the CPU may help."""
    word = provider[: -len(FALLBACK)] if provider.endswith(FALLBACK) else provider
    return word, word != provider


class Watch:
    """The profiler of an ONNX Runtime session during its first inference.

    It records what ran. `get_provider_graph_assignment_info` is only a plan: for a provider that changes the layout it
    names only the operators that the change added (1.27), and it misses what the CPU is given later.

    Args:
        options: of the future session; profiling is switched on.

    Raises:
        RuntimeFault: there is no folder for temporary files.
    """

    def __init__(self, options: Any) -> None:
        import shutil  # here, because most models run on the CPU and should load quickly
        import tempfile

        try:
            folder = tempfile.mkdtemp(prefix="edgekit-")
        except OSError as error:
            raise RuntimeFault(f"no folder for temporary files: {first_line(error)}") from error
        self._clean = weakref.finalize(self, shutil.rmtree, folder, True)
        options.enable_profiling = True
        options.profile_file_prefix = os.path.join(folder, "profile")

    def end(self, session: Any, provider: str) -> tuple[Placement, dict[str, int]]:
        """Stop, after the first inference.

        Args:
            session: the onnxruntime.InferenceSession.
            provider: the one that should have run everything.

        Returns:
            Where each operator ran, and by type those that `provider` should have run but did not: `strays`.

        Raises:
            RuntimeFault: the profile cannot be read.
        """
        try:
            with open(session.end_profiling(), encoding="utf-8") as file:
                events = json.load(file)
        except (OSError, ValueError) as error:  # the disk may be full
            raise RuntimeFault(f"the profile of what ran cannot be read: {first_line(error)}") from error
        finally:
            self._clean()
        ran = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
        if not ran:
            raise RuntimeFault(f"{provider} was asked for, but ONNX Runtime does not tell what ran")
        who = dict.fromkeys(event["args"]["provider"] for event in ran)
        placement = {each: _kinds(event for event in ran if event["args"]["provider"] == each) for each in who}
        return placement, strays(ran, provider)


def strays(events: Iterable[dict[str, Any]], provider: str) -> dict[str, int]:
    """Operators that ran elsewhere, by type, most first, without those that every provider leaves to the CPU.

    These compute shapes, which the CPU needs to know: Shape and Size, and operators whose inputs and results are all
    int64, int32 or bool with at most one dimension.
    """
    away = [event for event in events if event["args"]["provider"] != provider and not _about_shapes(event["args"])]
    return _kinds(away)


def _about_shapes(args: dict[str, Any]) -> bool:
    if args["op_name"] in ("Shape", "Size"):
        return True
    tensors = [each for key in ("input_type_shape", "output_type_shape") for each in args.get(key, ())]
    sizes = [(kind, size) for each in tensors for kind, size in each.items()]
    return bool(sizes) and all(kind in _SHAPES and len(size) <= 1 for kind, size in sizes)


def _kinds(events: Iterable[dict[str, Any]]) -> dict[str, int]:
    counts = Counter(event["args"]["op_name"] for event in events)
    return dict(sorted(counts.items(), key=lambda kind: (-kind[1], kind[0])))


def in_words(kinds: dict[str, int], most: int = 8) -> str:
    """``Conv 3, Add``: operators of each type, the first few types."""
    parts = [f"{kind} {count}" if count > 1 else kind for kind, count in kinds.items()]
    return ", ".join(parts[:most]) + (", ..." if len(parts) > most else "")


@contextmanager
def overheard() -> Iterator[Callable[[], str]]:
    """Keep what native code prints to file descriptor 2; gives a function that returns it."""
    from tempfile import TemporaryFile

    with TemporaryFile() as file:
        saved = os.dup(2)

        def said() -> str:
            file.seek(0)
            return file.read().decode(errors="replace")

        try:
            os.dup2(file.fileno(), 2)
            yield said
        finally:
            os.dup2(saved, 2)
            os.close(saved)
