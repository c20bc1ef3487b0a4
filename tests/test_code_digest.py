"""Stages run again where the code behind them changes, and only there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from edgekit.disk import code_digest
from edgekit.disk.run_directory import ORDER
from tests import warm
from tests.support import environment

Changed = Callable[..., set[str]]


def copied(folder: Path) -> Path:
    """A copy of edgekit, to be edited."""
    ignored = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(code_digest.ROOT, folder / "edgekit", ignore=ignored))


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digest of each stage in a copy that nobody has edited."""
    root = copied(tmp_path_factory.mktemp("before"))
    return {stage: digest_of(stage, root) for stage in ORDER}


@pytest.fixture
def changed(before: dict[str, str], tmp_path: Path) -> Changed:
    """Which stages an edit of a copy of edgekit makes run again."""

    def look(file: str, text: str = "\nEDITED = 1\n") -> set[str]:
        root = copied(tmp_path)
        with (root / file).open("a", encoding="utf-8") as edited:
            edited.write(text)
        return {stage for stage in ORDER if before[stage] != digest_of(stage, root)}

    return look


def digest_of(stage: str, root: Path = code_digest.ROOT) -> str:
    return code_digest.digest(f"edgekit.pipeline.stages.{stage}", root)


def test_a_report_format_concerns_the_report_alone(changed: Changed) -> None:
    assert changed("report/formats/html.py") == {"report"}


def test_style_sheets_count(changed: Changed) -> None:
    assert changed("report/_style.css") == {"report"}


def test_training_concerns_what_trains(changed: Changed) -> None:
    stages = changed("train/loop.py")
    assert {"train", "prune", "quantize"} <= stages
    assert not stages & {"data", "bundle", "report"}


def test_quantization_leaves_data_and_training_alone(changed: Changed) -> None:
    stages = changed("quantize/ptq.py")
    assert {"quantize", "export"} <= stages
    assert not stages & {"data", "train", "profile", "report"}


@pytest.mark.parametrize("file", ["quantize/ranges/entropy.py", "lower/rewrites/byte_clip.py"])
def test_choices_of_a_menu_count(changed: Changed, file: str) -> None:
    assert "quantize" in changed(file)


def test_code_of_other_processes_counts(changed: Changed) -> None:
    assert "profile" in changed("runtime/trace.py")  # run by its name


@pytest.mark.parametrize("file", ["cli/run.py", "console.py", "errors.py", "config/recipe.py", "pipeline/run.py"])
def test_messages_and_the_command_line_concern_no_stage(changed: Changed, file: str) -> None:
    assert changed(file) == set()


def test_the_files_found_are_those_that_python_imports() -> None:
    """The oracle is Python itself: what importing a stage loads is in its digest, but for what is neutral."""
    for stage in ORDER:
        code = (
            f"import sys, edgekit.pipeline.stages.{stage}\n"
            "print(*(m.__file__ for n, m in sys.modules.items() if n.startswith('edgekit.') and m.__file__), sep='\\n')"
        )
        loaded = warm.run(["-c", code], environment())
        assert loaded.returncode == 0, loaded.stderr
        found = set(code_digest.files(f"edgekit.pipeline.stages.{stage}"))
        for file in map(Path, loaded.stdout.split()):
            name = ".".join(file.relative_to(code_digest.ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
            if file.stat().st_size and not code_digest._is_neutral(name) and name != "edgekit.runtime":
                assert file in found or _behind_neutral(file), (stage, file)


def _behind_neutral(file: Path) -> bool:
    """Whether only neutral modules load it for every stage (`edgekit.pipeline.state` and what is behind that)."""
    return str(file) in _loaded_by_all()


@cache
def _loaded_by_all() -> list[str]:
    code = (
        "import sys, edgekit.pipeline.port, edgekit.pipeline.provenance\n"
        "print(*(getattr(m, '__file__', None) for m in list(sys.modules.values())), sep='\\n')"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
