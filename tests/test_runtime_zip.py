"""The runtime as one file, run by Pythons that have nothing of edgekit installed."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edgekit import __version__
from edgekit.errors import InputError
from edgekit.reach import runtime_zip
from tests.conftest import TinyRun
from tests.interpreters import bare
from tests.support import BUNDLE, edgekit

PACKAGE = Path(runtime_zip.__file__).parents[1]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("app")
    said = json.loads(edgekit("runtime-zip", "--json", cwd=folder).stdout)
    assert said == {"file": "edgekit-runtime.pyz", "bytes": (folder / "edgekit-runtime.pyz").stat().st_size}
    return folder / "edgekit-runtime.pyz"


def run(python: str, app: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Isolated (-I): neither this checkout nor anybody's settings are seen."""
    return subprocess.run([python, "-I", str(app), *map(str, words)], cwd=app.parent, capture_output=True, text=True)


def test_zip_is_below_its_limit_and_holds_the_runtime_alone(app: Path) -> None:
    assert app.stat().st_size < runtime_zip.LIMIT == 130_000
    assert app.stat().st_mode & 0o777 == 0o755
    with zipfile.ZipFile(app) as archive:
        assert archive.testzip() is None
        names = set(archive.namelist())
        assert archive.read("edgekit/runtime/archive.py") == (PACKAGE / "runtime" / "archive.py").read_bytes()
    others = {name for name in names if not name.startswith("edgekit/runtime/")}
    assert others == {"__main__.py", "LICENSE", "edgekit/__init__.py"}
    assert {Path(name).suffix for name in names - others} == {".py", ".json"}
    sources = {path.relative_to(PACKAGE.parent).as_posix() for path in (PACKAGE / "runtime").rglob("*.py")}
    assert sources > {f"edgekit/runtime/engines/{name}" for name in runtime_zip.HOST_ONLY}
    sources -= {f"edgekit/runtime/engines/{name}" for name in runtime_zip.HOST_ONLY}
    assert names - others == sources | {"edgekit/runtime/manifest.schema.json"}


def test_zip_is_the_same_in_every_process(app: Path, tmp_path: Path) -> None:
    for seed in ("1", "2"):
        edgekit("runtime-zip", "--out", tmp_path / "a.pyz", env={"PYTHONHASHSEED": seed, "TZ": f"Etc/GMT+{seed}"})
        assert (tmp_path / "a.pyz").read_bytes() == app.read_bytes()


def test_zip_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written: No such file"):
        runtime_zip.write(tmp_path / "gone" / "a.pyz")


@pytest.mark.parametrize("version", ["3.9", "3.13"])
def test_bare_python_runs_it_and_names_what_is_missing(app: Path, tiny: TinyRun, version: str) -> None:
    python = bare(version)
    assert run(python, app, "--version").stdout == f"edgekit {__version__}\n"
    assert "predict" in run(python, app, "--help").stdout
    answer = run(python, app, "predict", tiny.path / BUNDLE, next((tiny.path / "1-data" / "images" / "0").iterdir()))
    assert (answer.returncode, answer.stdout) == (2, "")
    (line,) = answer.stderr.splitlines()
    assert line.startswith("edgekit: ")
    assert "pip install" in line


def test_a_python_that_is_too_old_is_told_so(app: Path) -> None:
    answer = run(bare("3.8"), app, "--help")
    assert (answer.returncode, answer.stderr) == (1, "edgekit-runtime: needs Python 3.9 or newer, this is 3.8\n")


def test_it_predicts_what_the_command_on_the_host_predicts(app: Path, tiny: TinyRun) -> None:
    images = [str(path) for path in sorted((tiny.path / "1-data" / "images" / "3").iterdir())[:4]]
    answer = run(sys.executable, app, "predict", tiny.path / BUNDLE, *images, "--json", "--top", "2")
    host = edgekit("predict", tiny.path / BUNDLE, *images, "--json", "--top", "2")
    assert answer.returncode == 0, answer.stderr
    rows, others = ([json.loads(line) for line in text.splitlines()] for text in (answer.stdout, host.stdout))
    for row in (*rows, *others):
        assert row.pop("ms") > 0
    assert rows == others
    assert [row["image"] for row in rows] == images
    assert sum(row["label"] == "3" for row in rows) >= 3


def test_host_commands_say_so_on_an_old_python() -> None:
    answer = subprocess.run(
        [bare("3.9"), "-m", "edgekit", "run", "digits"], cwd=PACKAGE.parent, capture_output=True, text=True
    )
    assert answer.returncode == 2
    assert answer.stderr == "edgekit: needs Python 3.11, this is 3.9; only python -m edgekit.runtime runs here\n"
