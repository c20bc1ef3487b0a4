"""A stand-in for ExecuTorch's ``executor_runner``, whose binaries are built for phones: edgekit's engine runs the file,
and what is timed is printed in the words and the order of ``executor_runner.cpp``.

``main`` is the program. It needs torch, which takes seconds to import, so on the phone of a test it is a script that
asks the process of the test (`serve`).
"""

from __future__ import annotations

import json
import socketserver
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter_ns

import numpy as np

from edgekit.runtime.engines import executorch
from edgekit.runtime.errors import RuntimeFault

OLD = {"model_path", "num_executions", "cpu_threads"}
NEW = OLD | {"print_output"}
"""Flags of older and newer versions that matter here."""
CLIENT = """#!/bin/sh
exec {python} -I -c '
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as link:
    link.connect("{socket}")
    with link.makefile("rw") as talk:
        print(json.dumps([sys.argv[1:], os.environ.get("STYLE") != "old"]), file=talk, flush=True)
        status, text = json.loads(talk.readline())
sys.stderr.write(text)
sys.exit(status)
' "$@"
"""


class Log:
    """What it printed so far."""

    def __init__(self) -> None:
        self.start = perf_counter_ns()
        self.text = ""

    def add(self, message: str, level: str = "I", file: str = "executor_runner.cpp:123") -> None:
        """A line of ``ET_LOG``."""
        seconds = (perf_counter_ns() - self.start) / 1e9
        self.text += f"{level} 00:00:{seconds:09.6f} executorch:{file}] {message}\n"


def main(words: list[str], new: bool = True) -> tuple[int, str]:
    """Exit status, and what it prints."""
    if "--help" in words:
        return (
            1,
            "  Flags from executor_runner.cpp:\n    -num_executions (Number of times to run the model.) type: uint32",
        )
    flags = dict(word.removeprefix("--").split("=", 1) for word in words)
    known = (NEW if new else OLD) | {"undefok", *flags.get("undefok", "").split(",")}
    unknown = sorted(flags.keys() - known)
    if unknown:
        return 1, "".join(f"ERROR: unknown command line flag '{name}'\n" for name in unknown)
    log, path, count, threads = Log(), flags["model_path"], int(flags["num_executions"]), int(flags["cpu_threads"])
    log.add(f"Resetting threadpool with num threads = {threads}")
    before = perf_counter_ns()
    try:
        session = executorch.load(path, threads)
    except RuntimeFault:
        log.add("Program identifier 'ET13' != expected 'ET12'", "E", "program.cpp:136")
        log.add(f"Failed to parse model file {path}", "E")
        return 1, log.text
    log.add(f"Model file {path} is loaded.")
    log.add("Using method forward")
    log.add("Setting up CPU planned buffer 0, size 12480." if new else "Setting up planned buffer 0, size 12480.")
    if new:
        log.add(f"Model loaded in {(perf_counter_ns() - before) / 1e6:f} ms.")
    x, total = np.ones(session.input.shape, np.float32), 0
    for place in range(count):
        start = perf_counter_ns()
        y = session.run(x)
        took = perf_counter_ns() - start
        total += took
        if new:
            log.add(f"Iteration {place + 1} of {count}: {took / 1e6:f} ms")
    session.close()
    log.add(f"Model executed successfully {count} time(s) in {total / 1e6:f} ms.")
    log.add("1 outputs: ")
    return 0, log.text + ("" if flags.get("print_output") == "none" and new else f"OutputX 0: {y.tolist()}\n")


@contextmanager
def serve(folder: Path) -> Iterator[Path]:
    """The program as a script in `folder`, whose runs are those of `main` in this process."""

    class Answer(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            status, text = main(*json.loads(self.rfile.readline()))
            self.wfile.write(json.dumps([status, text]).encode() + b"\n")

    path = folder / "s"
    with socketserver.UnixStreamServer(str(path), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            file = folder / "executor_runner"
            file.write_text(CLIENT.format(python=sys.executable, socket=path))
            yield file
        finally:
            server.shutdown()
            thread.join()
