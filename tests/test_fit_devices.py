"""Searches for other devices: two, one of which drops out (a real sshd on loopback); a phone; an emulated one."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from edgekit.config import shipped
from edgekit.console import Console
from edgekit.device import file as device_file
from edgekit.device.file import Device
from edgekit.disk.run_directory import RunDirectory
from edgekit.errors import Shortfall, Unreached
from edgekit.fit import timing
from edgekit.fit.flow import Search
from edgekit.latency import store
from edgekit.reach import sysroot
from edgekit.search import latency_models, latency_session
from tests import fake_phone, fit_job
from tests.sshd import Board, board, boards
from tests.support import ROOT

__all__ = ["board", "boards"]  # fixtures
RUN: dict[str, Any] = {"engines": ["litert"], "threads": [1], "seconds": 0.2, "rounds": 4}


class Watching(Console):
    """Breaks the connection when the search says something."""

    def __init__(self, word: str, board: Board) -> None:
        super().__init__(quiet=True)
        self.word, self.board, self.said = word, board, list[str]()

    def say(self, text: str) -> None:
        self.said.append(text)
        if self.word in text:
            self.board.stop()


def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are real, but rough; a latency model is kept however rough."""
    monkeypatch.setattr(timing, "SECONDS", 0.2)
    monkeypatch.setattr(timing, "WIDE", 2.0)
    monkeypatch.setattr(latency_models, "POOR", math.inf)
    monkeypatch.setattr(latency_session, "learn", partial(latency_session.learn, seconds=0.2, count=6))


def test_a_device_that_drops_out_is_named_and_the_same_command_goes_on(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    briefly(monkeypatch)
    host = Device.model_validate({"name": "host", "run": RUN})
    job = fit_job.make(tmp_path, {"host": host, "board": board.device("board", **RUN)})
    assert job.recipe.fit is not None

    # It is gone once the two ends are timed, so that its latency model cannot be learnt.
    with pytest.raises(Unreached, match=r"^board: .*run the same command again"):
        Search(job, Watching("board: the whole network takes", board), dry=True).run()
    first = sorted(path.name for path in (tmp_path / "cache").rglob("*.json"))
    assert len(first) == 1  # that of the host is kept

    # Back again: what was measured is not measured again.
    board.start()
    again = Watching("never said", board)
    found = Search(job, again, dry=True).run()
    assert any("host: the latency model of an earlier search is used" in text for text in again.said)
    assert set(found.models) == {"host", "board"}
    for one in (found.whole, found.narrowest, *found.front):
        assert one is not None
        rows = one.measured or one.predicted
        assert [row.device for row in rows] == ["host", "board"]

    # Gone again, before candidates are timed, and back again: the outcome is within the budget on both. The file has to
    # be smaller, as times of so few rounds say little.
    fit = job.recipe.fit.model_copy(update={"max_mb": 0.6 * found.whole.measured[0].file_mb, "candidates": 1})
    job = replace(job, recipe=job.recipe.model_copy(update={"fit": fit}))
    with pytest.raises(Unreached, match=r"^board: .*run the same command again"):
        Search(job, Watching("board: the latency model of an earlier search is used", board)).run()
    stamp = RunDirectory(job.out / "whole").folder("train").stat().st_mtime_ns
    board.start()
    result = Search(job, Console(quiet=True)).run()
    assert RunDirectory(job.out / "whole").folder("train").stat().st_mtime_ns == stamp
    chosen = next(one for one in result.candidates if one.id == result.chosen)
    assert [row.device for row in chosen.measured] == ["host", "board"]
    assert fit.max_mb is not None
    assert all(row.high <= fit.max_ms and row.file_mb <= fit.max_mb for row in chosen.measured)
    assert [row.device for row in result.shipped] == ["host", "board"]

    # What no device can hold is said with the device's name, and nothing is measured anew: the board is off.
    board.stop()
    fit = fit.model_copy(update={"max_ms": 0.001})
    with pytest.raises(Shortfall, match=r"0\.001 ms is out of reach on (host|board)"):
        Search(replace(job, recipe=job.recipe.model_copy(update={"fit": fit})), Console(quiet=True)).run()


def test_on_an_emulated_device_all_times_are_estimates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if lacking := sysroot.missing("cortex-a76"):
        pytest.skip(lacking)
    monkeypatch.setattr(store, "folder", lambda: tmp_path / "models")
    pi = device_file.load(shipped.find("devices", "rpi5-emulated"))
    found = Search(fit_job.make(tmp_path, {pi.name: pi}), Console(quiet=True), dry=True).run()
    assert found.narrowest is not None
    rows = (*found.whole.measured, *found.narrowest.measured)
    assert [row.kind for row in rows] == ["estimated", "estimated"]
    assert rows[1].ms < rows[0].ms
    assert all("estimated" in said for said in found.models.values())
    assert len(found.front) >= 3


def test_a_phone_is_measured_by_its_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The phone is a folder of this machine, and the program runs the files in LiteRT: the times are real."""
    monkeypatch.setattr(store, "folder", lambda: tmp_path / "models")
    briefly(monkeypatch)
    fake_phone.connect(tmp_path, monkeypatch)
    program = tmp_path / "benchmark_model"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT / "tests" / "benchmark_model.py"} "$@"\n')
    reach = {"by": "adb", "host": "phone", "benchmark": str(program)}
    run = {**RUN, "engines": ["benchmark_model"], "rounds": 2}
    phone = Device.model_validate({"name": "phone", "reach": reach, "run": run})
    job = fit_job.make(tmp_path, {"phone": phone})
    found = Search(job, Console(quiet=True), dry=True).run()
    assert found.narrowest is not None
    rows = (*found.whole.measured, *found.narrowest.measured)
    assert {(row.device, row.engine, row.kind) for row in rows} == {("phone", "benchmark_model", "measured")}
    assert rows[1].ms < rows[0].ms
    assert set(found.models) == {"phone"}
    assert len(found.front) >= 3
