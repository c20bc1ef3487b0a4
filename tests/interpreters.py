"""Other Pythons of this machine, and environments in which they have a few packages."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.support import ROOT

_DONE = "complete"


def bare(*versions: str) -> str:
    """A Python of the first of these versions that runs here; skips where there is none."""
    homes = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for version in versions:
        found = [shutil.which(f"python{version}"), *(str(path) for path in homes.glob(f"{version}.*/bin/python"))]
        for python in filter(None, found):
            if subprocess.run([python, "-c", ""], capture_output=True).returncode == 0:
                return python
    pytest.skip(f"no python{' or python'.join(versions)} here")


def extra(name: str) -> list[str]:
    """What an extra of this project asks pip for, without what the host's commands alone need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [text for text in project["optional-dependencies"][name] if Requirement(text).name != "pydantic"]


def environment(python: str, requirements: Sequence[str], config: pytest.Config) -> Path:
    """The Python of a virtual environment with these packages alone; kept in pytest's cache for the next run.

    Skips where pip cannot get them.
    """
    about = subprocess.run([python, "-c", "import sys; print(sys.version, sys.prefix)"], capture_output=True, text=True)
    key = hashlib.sha256(json.dumps([about.stdout, *requirements]).encode()).hexdigest()[:16]
    folder = config.cache.mkdir("environments") / key
    own = folder / "bin" / "python"
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another test run may be making it
        if not (folder / _DONE).exists():
            shutil.rmtree(folder, ignore_errors=True)
            got = subprocess.run([python, "-m", "venv", folder], capture_output=True, text=True)
            if got.returncode:
                pytest.skip(f"{python} makes no virtual environment: {got.stdout.strip()[:200]}")
            got = pip(own, "--only-binary", ":all:", *requirements)
            if got.returncode:
                reason = (got.stderr.strip().splitlines() or ["pip failed"])[-1]
                pytest.skip(f"pip cannot install {' '.join(requirements)}: {reason}")
            (folder / _DONE).touch()
    return own


def pip(python: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """``pip install``, which gives up early where no registry can be reached."""
    command = [python, "-m", "pip", "install", "--quiet", "--retries", "1", "--timeout", "15", *words]
    return subprocess.run(command, capture_output=True, text=True)
