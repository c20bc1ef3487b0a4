"""Handle a file that may be damaged or hostile, in a process that may crash: ``python -m edgekit.inspect._worker``.

The caller's side is `ask`; the request is one JSON line on standard input, the answer a temporary JSON file.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError, MissingPackage

SECONDS = 120
MEMORY = 8 * 2**30
"""Bytes of address space for reading a file, beyond 20 times its size."""


class InspectionFault(Exception):
    """The process crashed, ran out of time or memory, or reported an error; one line."""


def ask(task: str, **request: Any) -> Any:
    """Run one task in a process of its own.

    Args:
        task: "read" (kind, path, file) or "run" (engine, path).
        request: its arguments.

    Raises:
        InspectionFault: there is no answer, or it is an error.
        MissingPackage: the package that reads the file is not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        words = [sys.executable, "-m", "edgekit.inspect._worker"]
        line = json.dumps({"task": task, "answer": str(answer), **request})
        try:
            done = subprocess.run(words, input=line.encode(), capture_output=True, timeout=SECONDS)
        except subprocess.TimeoutExpired as error:
            raise InspectionFault(f"did not finish within {SECONDS} s") from error
        try:
            table = json.loads(answer.read_bytes())
        except (OSError, ValueError) as error:
            raise InspectionFault(_ending(done.returncode, done.stderr)) from error
    if "missing" in table:
        raise MissingPackage(table["missing"])
    if "error" in table:
        raise InspectionFault(table["error"])
    return table["result"]


def _ending(code: int, chatter: bytes) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"crashed ({signal.Signals(-code).name})"
    last = chatter.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
    return f"failed ({code}): {last[0]}"


def main() -> None:
    """Answer one request."""
    request = json.loads(sys.stdin.readline())
    answer = Path(request.pop("answer"))
    try:
        task: Any = {"read": _read, "run": _run}[request.pop("task")]
        table = {"result": task(**request)}
    except MissingPackage as error:
        table = {"missing": str(error)}
    except MemoryError:
        table = {"error": "it needs too much memory"}
    except RecursionError:
        table = {"error": "its graph is cyclic or too deep"}
    except Exception as error:  # on a damaged file, readers may raise anything
        first = (str(error).strip() or "no message").splitlines()[0]
        plain = isinstance(error, (EdgekitError, ValueError))
        table = {"error": first if plain else f"its contents are inconsistent ({type(error).__name__}: {first})"}
    beside = answer.with_suffix(".tmp")
    beside.write_text(json.dumps(table), encoding="utf-8")
    beside.replace(answer)


def _read(kind: str, path: str, file: str) -> dict[str, Any]:
    from edgekit.inspect import file_report
    from edgekit.inspect.port import reader

    data = Path(path).read_bytes()
    with contextlib.suppress(ImportError, OSError, ValueError):  # not available on every system
        import resource

        room = MEMORY + 20 * len(data)
        resource.setrlimit(resource.RLIMIT_AS, (room, resource.getrlimit(resource.RLIMIT_AS)[1]))
    return file_report.as_dict(reader(kind).inspect(data, file))


def _run(engine: str, path: str) -> list[dict[str, Any]]:
    from edgekit.inspect import _engines, file_report

    return [file_report.as_dict(use) for use in _engines.uses(engine, path)]


if __name__ == "__main__":
    main()
