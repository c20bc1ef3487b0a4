"""Python in processes of their own that need not import torch first: each is forked from one that has.

Importing torch, torchvision, timm and the exporters takes a dozen seconds of CPU, more than what most tests run. A
child begins with none of edgekit's modules, its own session, environment, folder and streams, and ends as any process
does: with an exit code, or by a signal.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from subprocess import CompletedProcess

ROOT = Path(__file__).parents[1]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.preloaded"])


class Child:
    """``python -m edgekit ...`` or ``python -c CODE ...``, running."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], cwd: Path | None = None) -> None:
        self.argv = list(argv)
        self._folder = tempfile.TemporaryDirectory()
        self.stdout, self.stderr = (Path(self._folder.name) / name for name in ("stdout", "stderr"))
        self.stderr.touch()
        given = self.argv, dict(env), str(cwd or Path.cwd()), str(self.stdout), str(self.stderr)
        self._process: ForkServerProcess = _CONTEXT.Process(target=_be, args=given)
        before = dict(os.environ)
        os.environ |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}  # for the server, which starts with the first
        try:
            self._process.start()
        finally:
            os.environ.clear()
            os.environ |= before

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.is_alive()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to it and to all that it has started."""
        assert self._process.pid is not None
        os.killpg(self._process.pid, number)

    def wait(self) -> CompletedProcess[str]:
        """How it ended, and what it said."""
        self._process.join()
        code = self._process.exitcode
        assert code is not None
        self._process.close()
        said = [path.read_text() if path.exists() else "" for path in (self.stdout, self.stderr)]
        self._folder.cleanup()
        return CompletedProcess(self.argv, code, *said)


def run(argv: Sequence[str], env: Mapping[str, str], cwd: Path | None = None) -> CompletedProcess[str]:
    """`Child`, waited for."""
    return Child(argv, env, cwd).wait()


def _be(argv: list[str], env: dict[str, str], cwd: str, stdout: str, stderr: str) -> None:
    """Become that process."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, path in ((1, stdout), (2, stderr)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ |= env
    os.chdir(cwd)
    how, what, *words = argv
    sys.argv = [what if how == "-m" else how, *words]
    if how == "-c":
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
        return
    assert (how, what) == ("-m", "edgekit")
    from edgekit.__main__ import main

    main()
