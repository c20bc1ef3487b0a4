from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekit.disk.run_directory import RunDirectory
from edgekit.errors import Busy, InputError, Shortfall
from tests.support import environment

EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}
"""What the interpreter reports before it touches a file; `Path` and `shutil` are built on these."""


class Killed(BaseException):
    """Stands for SIGKILL: no ``except Exception`` sees it."""


class Fuse:
    """Raises `Killed` instead of the n-th step that touches files below a folder."""

    def __init__(self) -> None:
        self.folder = ""
        self.left = 0
        sys.addaudithook(self._hook)  # stays for the life of the process, and does nothing unless lit

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        # rmtree removes by folder descriptor and bare names: those count too.
        if self.left and event in EVENTS:
            place = str(arguments[0])
            if place.startswith(self.folder) or not os.path.isabs(place):
                self.left -= 1
                if not self.left:
                    raise Killed

    def light(self, folder: Path, steps: int, work: Callable[[], object]) -> bool:
        """Do the work; True when it was killed on the way."""
        self.folder, self.left = str(folder), steps
        try:
            work()
        except Killed:
            return True
        finally:
            self.left = 0
        return False


@pytest.fixture(scope="session")
def fuse() -> Fuse:
    return Fuse()


def build(text: str) -> Callable[[Path], None]:
    def work(folder: Path) -> None:
        (folder / "sub").mkdir(exist_ok=True)
        (folder / "sub" / "a.txt").write_text(text)
        (folder / "b.txt").write_text(text * 2)

    return work


def stage(directory: RunDirectory, value: str, **options: Any) -> bool:
    """Run a stage that writes `value`; True when it really ran."""
    return not directory.stage("data", {"value": value}, build(value), **options).cached


def content(directory: RunDirectory) -> str | None:
    """What the finished stage says; None where there is none. Both files must agree."""
    done = directory.find("data")
    if done is None:
        return None
    text = (done.path / "sub" / "a.txt").read_text()
    assert (done.path / "b.txt").read_text() == text * 2
    assert {path.name for path in done.path.iterdir()} == {"sub", "b.txt", "stage.json"}
    return text


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path)


def test_stage_skips_when_inputs_are_equal(directory: RunDirectory) -> None:
    assert stage(directory, "old")
    assert not stage(directory, "old")
    assert stage(directory, "new")
    assert content(directory) == "new"


def test_stage_records_inputs_and_outputs(directory: RunDirectory) -> None:
    stage(directory, "old")
    record = json.loads((directory.folder("data") / "stage.json").read_text())
    assert record["inputs"]["value"] == "old"
    assert set(record["outputs"]) == {"sub/a.txt", "b.txt"}
    assert record["seconds"] >= 0


def _tamper(folder: Path) -> None:
    (folder / "b.txt").write_text("tampered")


def _remove(folder: Path) -> None:
    (folder / "sub" / "a.txt").unlink()


def _add(folder: Path) -> None:
    (folder / "sub" / "more.txt").write_text("")


def _cut_record(folder: Path) -> None:
    text = (folder / "stage.json").read_text()
    (folder / "stage.json").write_text(text[: len(text) // 2])


def _foreign_record(folder: Path) -> None:
    (folder / "stage.json").write_text("[]")


@pytest.mark.parametrize("harm", [_tamper, _remove, _add, _cut_record, _foreign_record])
def test_stage_runs_again_when_its_files_were_harmed(directory: RunDirectory, harm: Callable[[Path], None]) -> None:
    stage(directory, "old")
    harm(directory.folder("data"))
    assert directory.find("data") is None
    assert stage(directory, "old")
    assert content(directory) == "old"


@pytest.mark.parametrize("name", ["export.log", "UNVERIFIED.txt", ".DS_Store"])
def test_stage_skips_when_only_a_log_or_a_mark_was_added(directory: RunDirectory, name: str) -> None:
    stage(directory, "old")
    (directory.folder("data") / name).write_text("words")
    assert not stage(directory, "old")


def killings(fuse: Fuse, folder: Path, prepare: Callable[[], None], work: Callable[[], object]) -> Iterator[int]:
    """Kill the work at its 1st, 2nd, 3rd ... step, prepared afresh each time, until it survives."""
    for steps in range(1, 1000):
        prepare()
        if not fuse.light(folder, steps, work):
            assert steps > 10, "the fuse does not see the steps"
            return
        yield steps


@pytest.mark.parametrize("resumable", [False, True])
@pytest.mark.parametrize("then", ["new", "old"])
def test_stage_ends_right_when_killed_at_any_step(
    directory: RunDirectory, fuse: Fuse, resumable: bool, then: str
) -> None:
    """Whatever the step, a whole old or new stage is left, and the next run ends in the right one."""

    def prepare() -> None:
        stage(directory, "old", resumable=resumable)

    partial = RunDirectory(directory.path)
    partial.folder = lambda name: directory.path / ".1-data.partial"  # type: ignore[method-assign]
    for step in killings(fuse, directory.path, prepare, lambda: stage(directory, "new", resumable=resumable)):
        left = directory.find("data")
        assert left is not None or partial.find("data") is not None, f"step {step} lost the old stage"
        stage(directory, then, resumable=resumable)
        assert content(directory) == then
        assert not (directory.path / ".1-data.old").exists()


def test_stage_goes_on_where_it_was_killed_when_resumable(directory: RunDirectory) -> None:
    def killed(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise Killed

    def rest(folder: Path) -> None:
        build((folder / "half.txt").read_text())(folder)
        (folder / "half.txt").unlink()

    for inputs in ({"value": 1}, {"value": 2}):  # the second finds the first one's half, and must not use it
        with pytest.raises(Killed):
            directory.stage("data", inputs, killed, resumable=True)
    directory.stage("data", {"value": 2}, rest, resumable=True)
    assert content(directory) == "half"
    with pytest.raises(FileNotFoundError):
        directory.stage("data", {"value": 3}, rest, resumable=True)


def test_stage_is_not_built_twice_when_killed_after_its_record(tmp_path: Path, fuse: Fuse) -> None:
    """Hours of training are not lost to a kill between the last epoch and the rename."""
    late = 0
    for steps in range(1, 1000):
        folder = tmp_path / str(steps)
        folder.mkdir()
        built: list[int] = []

        def count(work: Path, built: list[int] = built) -> None:
            built.append(1)
            build("new")(work)

        def run(folder: Path = folder, count: Callable[[Path], None] = count) -> None:
            RunDirectory(folder).stage("data", {}, count, resumable=True)

        if not fuse.light(folder, steps, run):
            break
        recorded = any(folder.glob("*1-data*/stage.json"))
        run()
        assert content(RunDirectory(folder)) == "new"
        if recorded:
            late += 1
            assert built == [1]
    assert late >= 2


def test_stage_keeps_the_files_of_a_shortfall_and_the_old_stage(directory: RunDirectory) -> None:
    stage(directory, "old")

    def fall_short(folder: Path) -> None:
        (folder / "evidence.txt").write_text("x")
        raise Shortfall("too bad")

    with pytest.raises(Shortfall, match=r"too bad \(files: .*1-data\.failed\)"):
        directory.stage("data", {"value": "new"}, fall_short)
    assert {path.name for path in (directory.path / "1-data.failed").iterdir()} == {"evidence.txt"}
    assert content(directory) == "old"
    assert not stage(directory, "old")
    assert not (directory.path / "1-data.failed").exists()


@pytest.mark.parametrize("resumable", [False, True])
def test_stage_leaves_nothing_but_what_can_go_on_when_the_input_is_wrong(
    directory: RunDirectory, resumable: bool
) -> None:
    def refuse(folder: Path) -> None:
        (folder / "half.txt").write_text("x")
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        directory.stage("data", {}, refuse, resumable=resumable)
    left = [path.name for path in directory.path.iterdir()]
    assert left == ([".1-data.partial"] if resumable else [])


def test_locked_refuses_a_second_process_until_the_first_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, time; from edgekit.disk.run_directory import RunDirectory\n"
        "with RunDirectory(pathlib.Path(sys.argv[1])).locked(): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, env=environment(), text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Busy, match=f"process {holder.pid}"), RunDirectory(tmp_path).locked():
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert holder.stdout is not None
        holder.stdout.close()
    with RunDirectory(tmp_path).locked():
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_locked_refuses_a_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for path in (file, file / "below"):
        with pytest.raises(InputError, match="cannot be used as a run directory"), RunDirectory(path).locked():
            pass
    assert file.read_text() == "mine"


def test_a_stage_is_taken_over_in_place_of_one_with_other_inputs(tmp_path: Path) -> None:
    """A search whose whole network was trained anew hands it to all its candidates, which have the older one."""
    home, other = RunDirectory(tmp_path / "whole"), RunDirectory(tmp_path / "candidate")
    for each in (home, other):
        each.path.mkdir()

    def build(text: str) -> Callable[[Path], None]:
        def write(work: Path) -> None:
            (work / "weights").write_text(text)

        return write

    home.stage("train", {"epochs": 1}, build("old"))
    other.adopt(home, "train")
    assert other.stage("train", {"epochs": 1}, build("never")).cached
    home.stage("train", {"epochs": 2}, build("new"))
    other.adopt(home, "train")
    done = other.stage("train", {"epochs": 2}, build("never"))
    assert done.cached
    assert (done.path / "weights").read_text() == "new"
    other.adopt(RunDirectory(tmp_path / "nothing"), "train")
    assert other.find("train") is not None
