"""Fixtures that every test may use."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Each of the processes that run tests gets its share of the cores; torch reads this when it is imported.
_SHARE = (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
os.environ.setdefault("OMP_NUM_THREADS", str(max(_SHARE, 1)))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets it

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

from tests import shared_files, support  # noqa: E402
from tests.browser import Browser, chromium  # noqa: E402

settings.register_profile("edgekit", deadline=None)  # times are never tested
settings.load_profile("edgekit")


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


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A real Chromium; its tests are skipped where there is none."""
    program = chromium()
    if program is None:
        pytest.skip("no Chromium on this machine: the page is not rendered")
    started = Browser(program, tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """One whole run through the front door, shared by all tests: a process made it, the others copy it."""

    def make(folder: Path) -> None:
        device = folder / "quick.toml"
        device.write_text(support.DEVICE)
        start = time.perf_counter()
        answer = support.edgekit("run", *support.TINY, "--device", device, "--out", folder / "run", "--json")
        said = [answer.stdout, answer.stderr, time.perf_counter() - start]
        (folder / "answer.json").write_text(json.dumps(said))

    made = shared_files.made(tmp_path_factory, "tiny", make)
    own = Path(shutil.copytree(made / "run", tmp_path_factory.mktemp("tiny") / "run"))
    stdout, stderr, seconds = json.loads((made / "answer.json").read_text())
    said = [text.replace(str(made / "run"), str(own)) for text in (stdout, stderr)]
    return TinyRun(own, made / "quick.toml", subprocess.CompletedProcess(["edgekit"], 0, *said), seconds)


@pytest.fixture
def copied(tiny: TinyRun, tmp_path: Path) -> Path:
    """A copy of that run, to be changed."""
    return Path(shutil.copytree(tiny.path, tmp_path / "run"))
