"""Operator profiles in the pipeline: of the right files, on devices near and far, and in the reports."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.device.file import Device
from edgekit.disk import json_file
from edgekit.measurements import OperatorProfile, Profile, Timing
from edgekit.profile import hotspots, operators
from edgekit.reach.ways import ssh
from edgekit.report import hotspots as hotspots_module
from edgekit.report.formats import html, markdown
from edgekit.types import Artifact, TensorSpec
from edgekit.verdict import noise
from edgekit.verdict import rule as verdict
from tests import report_sample
from tests.conftest import TinyRun
from tests.sshd import Board, board, boards
from tests.support import edgekit
from tests.test_profile import QUIET

__all__ = ["board", "boards"]
ENGINES = {"onnxruntime": "engine profiler", "litert": "prefix differences"}


def artifacts(run: Path) -> list[Artifact]:
    return json_file.load(run / "6-export" / "artifacts.json", list[Artifact])


def measured(run: Path, *devices: str) -> Profile:
    """What the run was timed at, as if it were other devices."""
    found = json_file.load(run / "9-profile" / "profile.json", Profile)
    (machine,) = found.machines.values()
    timings = tuple(replace(timing, device=name) for name in devices for timing in found.timings)
    return Profile(dict.fromkeys(devices, machine), timings)


# --- which files


def timing(artifact: str, ms: float, **changes: Any) -> Timing:
    given = report_sample.report().latency[0]
    same = dict.fromkeys(("min_ms", "mean_ms", "p50_ms", "p90_ms", "p99_ms"), ms)
    fixed = {"samples": (ms,), "round_sizes": (1,), "kind": "measured", "batch": 1, "device": "host", "threads": 1}
    return replace(given, artifact=artifact, **{**fixed, **same, **changes})


def made(precision: str, size: int = 1) -> Artifact:
    port = TensorSpec("x", (1,), "float32", "NC")
    return Artifact(precision, "onnx", precision, "", "", size, 0, (), port, port)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({"fp32": 4, "fp16": 3, "int8": 2, "dynamic": 2.5}, ["int8", "fp16"]),
        ({"fp32": 4, "int8": 5, "dynamic": 6}, ["fp32", "int8"]),  # then the question is why int8 is slower
        ({"fp32": 4}, ["fp32"]),
        ({"int8": 4, "dynamic": 5}, ["int8"]),
        ({}, []),
    ],
)
def test_contenders_are_the_fastest_of_both_sides(times: dict[str, float], expected: list[str]) -> None:
    rows = [timing(precision, ms) for precision, ms in times.items()]
    elsewhere = [timing("int8", 0.1, device="other"), timing("int8", 0.1, batch=8)]
    emulated = [timing("int8", 0.1, kind="estimated")] if times else []
    found = verdict.contenders("host", [made(precision) for precision in report_precisions(times)], rows + elsewhere)
    assert [row.artifact for row in found] == expected
    found = verdict.contenders("host", [made(precision) for precision in report_precisions(times)], rows + emulated)
    assert [row.artifact for row in found] == expected


def report_precisions(times: dict[str, float]) -> list[str]:
    return list(dict.fromkeys([*times, "int8"]))


# --- on devices


def test_a_run_says_why_one_file_is_faster(tiny: TinyRun) -> None:
    found = json_file.load(tiny.path / "9-profile" / "profile.json", Profile)
    (shipped,) = json.loads((tiny.path / "10-report" / "verdict.json").read_text())
    assert found.failures == ()
    first, second = found.operators
    assert {first.artifact[-4:], second.artifact[-4:]} == {"int8", "fp32"}
    assert (first.device, first.threads) == ("quick", 1)
    assert {first.method, second.method} <= set(ENGINES.values())
    assert shipped["artifact"] in (first.artifact, second.artifact)
    float_, int8 = sorted((first, second), key=lambda each: each.artifact[-4:])
    times = [next(t for t in found.timings if (t.artifact, t.engine) == (p.artifact, p.engine)) for p in (float_, int8)]
    sentence = operators.because(float_, int8, noise.equal(*times))
    reports = tiny.path / "10-report"
    assert markdown.text(sentence) in (reports / "report.md").read_text()
    assert sentence in (reports / "report.html").read_text().replace("&gt;", ">")
    assert operators.hottest(int8, 1)[0].layer in (reports / "report.md").read_text()
    assert [row["layer"] for row in json.loads((reports / "report.json").read_text())["operators"][0]["rows"]] == [
        row.layer for row in first.rows
    ]


def test_a_run_without_them(copied: Path) -> None:
    edgekit("profile", copied, "--set", "profile.operators=false")
    assert json_file.load(copied / "9-profile" / "profile.json", Profile).operators == ()


def test_over_ssh_once(board: Board, tiny: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = {"pi": board.device("pi", engines=["litert", "onnxruntime"], seconds=0.02)}
    given = artifacts(tiny.path), tiny.path / "6-export", devices, measured(tiny.path, "pi"), QUIET, tmp_path
    profiles, failures = hotspots.find(*given)
    assert failures == []
    assert [profile.device for profile in profiles] == ["pi", "pi"]
    assert all(profile.rows and profile.total_ms > 0 for profile in profiles)
    assert len(list(tmp_path.iterdir())) == 2
    asked: list[str] = []
    ask = operators.ask

    def noted(*words: Any) -> OperatorProfile:
        asked.append(words[2])
        return ask(*words)

    monkeypatch.setattr(operators, "ask", noted)
    assert hotspots.find(*given) == (profiles, [])
    assert asked == []  # another time nothing has to run
    named = [replace(each, id=f"{each.id}-again") for each in given[0]]  # the same files by other names
    timed = tuple(replace(row, artifact=f"{row.artifact}-again") for row in given[3].timings)
    profiles, _ = hotspots.find(named, given[1], devices, replace(given[3], timings=timed), QUIET, tmp_path)
    assert [profile.artifact for profile in profiles] == asked
    assert all(name.endswith("-again") for name in asked)


def failing(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Whatever times operators over ssh runs this in its place."""
    start: Callable[..., Any] = ssh.start

    def fake(argv: Any, device: Device) -> Any:
        return start(["-c", code] if "edgekit.runtime.trace" in argv else argv, device)

    monkeypatch.setattr(ssh, "start", fake)


@pytest.mark.parametrize(
    ("code", "reason", "lost"),
    [
        ('print(\'{"error": "no room"}\')', "operators: no room", False),
        ("print('{}')", "operators: the measuring process returned no valid operator times (KeyError", False),
        ("import os; os._exit(3)", "operators: it ended with status 3", True),
    ],
)
def test_a_device_where_it_fails_gets_a_note(
    board: Board, tiny: TinyRun, monkeypatch: pytest.MonkeyPatch, code: str, reason: str, lost: bool
) -> None:
    failing(monkeypatch, code)
    devices = {"pi": board.device("pi")}
    profiles, failures = hotspots.find(
        artifacts(tiny.path), tiny.path / "6-export", devices, measured(tiny.path, "pi"), QUIET
    )
    assert profiles == []
    assert len(failures) == 2
    assert {(failure.device, failure.lost) for failure in failures} == {("pi", lost)}
    assert all(failure.reason.startswith(reason) for failure in failures)


def test_a_device_that_is_gone_costs_its_own_notes(boards: Callable[..., Board], tiny: TinyRun) -> None:
    here, gone = boards(), boards()
    devices = {name: each.device(name, reach={"timeout": 3}) for name, each in {"pi": here, "gone": gone}.items()}
    gone.stop()
    profiles, failures = hotspots.find(
        artifacts(tiny.path), tiny.path / "6-export", devices, measured(tiny.path, "pi", "gone"), QUIET
    )
    assert [profile.device for profile in profiles] == ["pi", "pi"]
    assert [(failure.device, failure.lost) for failure in failures] == [("gone", True)] * 2


def test_what_is_kept_outlives_a_day_on_which_the_device_is_down(tiny: TinyRun, tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("{}")
    given = artifacts(tiny.path), tiny.path / "6-export", {"pi": Device(name="pi")}
    assert hotspots.find(*given, Profile({}, ()), QUIET, tmp_path) == ([], [])
    assert (tmp_path / "old.json").exists()
    both = replace(measured(tiny.path, "pi"), timings=())
    assert hotspots.find(*given, both, QUIET, tmp_path) == ([], [])
    assert not (tmp_path / "old.json").exists()


def test_what_is_estimated_is_not_timed_by_operator(tiny: TinyRun) -> None:
    given = measured(tiny.path, "board")
    rows = tuple(replace(timing, kind="estimated", samples=(), round_sizes=()) for timing in given.timings)
    devices = {"board": Device(name="board")}
    found = hotspots.find(artifacts(tiny.path), tiny.path, devices, replace(given, timings=rows), QUIET)
    assert found == ([], [])


# --- in reports


def test_operators_that_do_not_add_up_carry_a_caution() -> None:
    sample = report_sample.report()
    assert sample.operators
    device = sample.operators[0].device

    def off(profile: OperatorProfile) -> OperatorProfile:
        return replace(profile, raw_ms=2 * profile.total_ms)

    rough = replace(sample, operators=tuple(map(off, sample.operators)))
    smooth = replace(sample, operators=tuple(replace(each, raw_ms=each.total_ms) for each in sample.operators))
    assert len(hotspots_module.cautions(hotspots_module.found(rough, device))) == len(
        hotspots_module.found(rough, device)
    )
    for renderer in (html, markdown):
        assert "its shares are rough" in renderer.render(rough)
        assert "its shares are rough" not in renderer.render(smooth)
