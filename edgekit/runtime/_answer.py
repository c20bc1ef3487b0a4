"""A process that does one task on a device: one line of JSON in, one line of JSON out."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from edgekit.runtime.errors import RuntimeFault, first_line


def main(work: Callable[..., dict[str, Any]]) -> int:
    """Answer the line on stdin, an object of `work`'s arguments, with what it returns or {"error": "one line"}.

    Returns:
        The exit status: 1 after an error.
    """
    # Engines print to file descriptor 1 as they like: keep the real one aside for the answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        answer = work(**json.loads(sys.stdin.readline()))
    except RuntimeFault as fault:
        answer = {"error": str(fault)}
    except Exception as error:  # whatever it is, the host shows it in one line
        answer = {"error": f"{type(error).__name__}: {first_line(error)}"}
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
    return 1 if "error" in answer else 0
