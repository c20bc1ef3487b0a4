"""Fixtures that every test may use."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import support


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with real weights and images; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("EDGEKIT_TEST_DATA", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no test data in {folder} (set EDGEKIT_TEST_DATA)")
    return folder


@pytest.fixture(scope="session", autouse=True)
def own_lock(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests measure to see that it works: nobody has to wait for them, and they wait for nobody."""
    os.environ["EDGEKIT_LOCK"] = str(tmp_path_factory.mktemp("lock") / "lock")


@dataclass(frozen=True)
class TinyRun:
    """A finished run of the shipped digits recipe, cut down. Not to be changed: copy it."""

    path: Path
    device: Path
    """The device file it was measured with."""
    answer: subprocess.CompletedProcess[str]
    seconds: float


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """One whole run through the front door, shared by all tests."""
    folder = tmp_path_factory.mktemp("tiny")
    device = folder / "quick.toml"
    device.write_text(support.DEVICE)
    start = time.perf_counter()
    answer = support.edgekit("run", *support.TINY, "--device", device, "--out", folder / "run", "--json")
    return TinyRun(folder / "run", device, answer, time.perf_counter() - start)


@pytest.fixture
def copied(tiny: TinyRun, tmp_path: Path) -> Path:
    """A copy of that run, to be changed."""
    return Path(shutil.copytree(tiny.path, tmp_path / "run"))
