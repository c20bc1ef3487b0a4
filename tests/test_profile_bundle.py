"""``edgekit profile BUNDLE``: one file from a colleague, measured on devices, its golden vectors replayed there."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter

from edgekit.cli.main import cli
from edgekit.console import Console
from edgekit.device.file import Device, LimitsSection
from edgekit.errors import InputError, Shortfall
from edgekit.measurements import Profile, Replay, Verdict
from edgekit.pipeline import bundled
from edgekit.profile import golden, hotspots, operators, run
from edgekit.reach.worker import WorkerFault
from edgekit.report import _schema, reader
from edgekit.report.formats import html, markdown
from edgekit.report.formats import json as json_report
from edgekit.runtime import replay
from edgekit.runtime.bundle import Bundle
from edgekit.runtime.errors import RuntimeFault
from edgekit.scores import Accuracy
from edgekit.verdict import rule as verdict
from tests import bundles, model_files, report_sample
from tests.conftest import TinyRun
from tests.report_pages import HOSTILE, Page
from tests.sshd import Board, board, boards
from tests.support import BUNDLE, environment
from tests.test_profile import QUIET, host, script

__all__ = ["board", "boards"]

SCHEMA = _schema.schema()
RECIPE = {"name": "waste", "quantize": {"max_drop": 1.0}}
SCORES = {
    "fp32-onnx": {"images": 40, "top1": 0.9, "agreement": 1, "split": "test"},
    "int8-onnx": {"images": 40, "top1": 0.8925, "agreement": 0.975, "split": "test"},
}
"""Of the test split: int8 loses 0.75 points."""
QUICK = """
name = "quick"
[run]
engines = ["onnxruntime"]
seconds = 0.02
warmup = 1
rounds = 1
"""


def contents() -> tuple[dict[str, Any], dict[str, bytes]]:
    """The bundle of `tests.bundles`, scored, with a recipe."""
    manifest, members = bundles.contents()
    for entry in manifest["artifacts"]:
        entry["accuracy"] = [{"engine": "onnxruntime", "device": "host", "passed": True, **SCORES[entry["id"]]}]
        entry["float_ops"] = 0
    return {**manifest, "recipe": RECIPE}, members


def packed(folder: Path, manifest: Any = None, members: Any = None) -> Path:
    """Written to ``waste.edgekit``."""
    own = contents()
    return bundles.write(folder / "waste.edgekit", bundles.seal(manifest or own[0], members or own[1]))


def spoilt(folder: Path, artifact: str = "int8-onnx", by: int = 9) -> Path:
    """One whose second golden vector this CPU cannot give: it is away by some steps."""
    manifest, members = contents()
    outputs = bundles.quantized(bundles.expected(bundles.pixels()))
    outputs[1, 2] += by if outputs[1, 2] < 0 else -by
    return packed(folder, manifest, {**members, f"golden/{artifact}.npy": bundles.npy(outputs)})


def local(**more: Any) -> dict[str, Device]:
    return {"host": host(seconds=0.02, rounds=1, **more)}


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, ["profile", *map(str, words)])


def report(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "report.json").read_text())
    return found


@pytest.fixture
def quick(tmp_path: Path) -> Path:
    path = tmp_path / "quick.toml"
    path.write_text(QUICK)
    return path


# What it gives -------------------------------------------------------------------------------------

WITHOUT = "torch torchvision timm torchao onnx onnxscript litert_torch ai_edge_quantizer sklearn PIL safetensors pandas"
BARE = f"import sys; sys.modules.update(dict.fromkeys({WITHOUT.split()!r})); from edgekit.cli.main import main; main()"
"""The command where none of these is installed; what it starts has them."""


def test_a_bundle_becomes_a_report_without_torch(tmp_path: Path, quick: Path) -> None:
    packed(tmp_path)
    words = ["profile", "waste.edgekit", "--device", quick.name, "--json", "--sustained", "0.02s"]
    answer = subprocess.run(
        [sys.executable, "-c", BARE, *words], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    said = json.loads(answer.stdout)
    assert (said["run"], said["bundle"]) == ("profiles/waste", "waste.edgekit")
    (chosen,) = said["verdict"]
    assert (chosen["device"], chosen["engine"], chosen["threads"]) == ("quick", "onnxruntime", 1)
    assert chosen["artifact"] in SCORES

    out = tmp_path / "profiles" / "waste"
    found = report(out)
    Draft202012Validator(json.loads((out / "report.schema.json").read_text())).validate(found)
    assert {(row["artifact"], row["engine"], row["threads"]) for row in found["latency"]} == {
        ("int8-onnx", "onnxruntime", 1),
        ("fp32-onnx", "onnxruntime", 1),
    }
    assert found["failures"] == []
    assert all(row["steps"] and len(row["sustained"]) == 1 for row in found["latency"])
    assert {row["artifact"] for row in found["operators"]} == set(SCORES)
    assert found["provenance"]["source"]["file"] == "waste.edgekit"
    shown = {(row["artifact"], row["top1"]) for row in found["accuracy"]}
    assert shown == {("torch-fp32", 0.9), ("fp32-onnx", 0.9), ("int8-onnx", 0.8925)}
    for row in found["golden"]:
        assert (row["vectors"], row["images"], row["problem"]) == (3, 2, "")
        assert row["away"] <= (1 if row["unit"] == "steps" else 1e-5)
    page = Page((out / "report.html").read_text())
    assert "Golden vectors" in page.text
    text = (out / "report.md").read_text()
    assert "quick: match for 2 of 2 files and engines (" in text
    (row, *_) = csv.DictReader(io.StringIO((out / "report.csv").read_text()))
    assert row["golden"] == "true"


def test_the_bundle_of_a_run_gives_the_rows_of_that_run(tiny: TinyRun, tmp_path: Path) -> None:
    """Both engines; the scores are those of the run, torch fp32's too."""
    answer = call(
        tiny.path / BUNDLE, "--device", tiny.device, "--out", tmp_path / "out", "--set", "profile.operators=false"
    )
    assert answer.exit_code == 0, answer.output
    found, before = report(tmp_path / "out"), report(tiny.path / "10-report")

    def rows(which: dict[str, Any]) -> set[tuple[Any, ...]]:
        return {(row["artifact"], row["engine"], row["threads"]) for row in which["latency"]}

    def scores(which: dict[str, Any]) -> dict[str, float]:
        return {row["artifact"]: row["top1"] for row in which["accuracy"] if row["artifact"] != "torch-int8"}

    assert rows(found) == rows(before)
    assert scores(found) == scores(before)
    assert found["operators"] == []
    assert len(found["golden"]) == len(found["latency"])
    assert all(row["vectors"] == 8 and row["images"] and not row["problem"] for row in found["golden"])
    assert found["recipe"]["quantize"] == before["recipe"]["quantize"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished profile of ``waste.edgekit``, which lies beside it."""
    folder = tmp_path_factory.mktemp("done")
    return bundled.profile(packed(folder), local(), QUIET, folder / "out").out


def test_a_second_call_measures_nothing(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = report(done)
    monkeypatch.setattr("edgekit.profile.run._measure", None)
    monkeypatch.setattr("edgekit.profile.golden._row", None)
    monkeypatch.setattr("edgekit.profile.operators.ask", None)
    second = report(bundled.profile(done.parent / "waste.edgekit", local(), QUIET, done).out)
    for key in ("latency", "golden", "operators", "verdict", "accuracy", "artifacts"):
        assert first[key] == second[key]


def test_a_machine_that_is_too_busy_to_tell_says_so_everywhere(
    tmp_path: Path, quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The times are made up (`script`), all else is real."""
    turns = script(monkeypatch, {"waste-fp32": [8.0, 1.0, 93.0], "waste-int8": [5.0, 13.0, 2.0]})
    quick.write_text(QUICK.replace("rounds = 1", "rounds = 3"))
    path, out = packed(tmp_path), tmp_path / "out"
    words = (path, "--device", quick, "--out", out, "--set", "profile.operators=false")
    strict = call(*words, "--strict", "--json", "--quiet")
    assert strict.exit_code == 1
    assert set(turns.values()) == {9}
    said, why = (
        json.loads(strict.stdout),
        "this machine was too busy to tell whether fp32-onnx on onnxruntime, 1 thread (",
    )
    assert (said["undecided"], said["verdict"][0]["undecided"]) == (["quick"], True)
    assert said["verdict"][0]["artifact"] == "int8-onnx"
    assert f"edgekit: quick: {said['verdict'][0]['reason']}" in strict.stderr
    assert why in strict.stderr
    assert "while measuring, a process waiting for a core 50 % of the time" in strict.stderr
    assert strict.stderr.endswith("measure again when the machine is idle: the same command with --again\n")

    plain = call(*words, "--quiet")
    assert plain.exit_code == 0
    assert why in plain.stdout
    for name in ("report.md", "report.html"):
        text = (out / name).read_text()
        text = " ".join(Page(text).text) if name.endswith("html") else text
        assert why.split(" (")[0] in text
        assert "The verdict is not certain" in text
    rows = list(csv.DictReader(io.StringIO((out / "report.csv").read_text())))
    assert {(row["undecided"], row["cpu_pressure"], row["rounds"]) for row in rows} == {("true", "0.5", "9")}
    old = report(out)
    for row in (*old["latency"], *old["verdict"]):
        for key in ("cpu_pressure", "cpu_steal", "undecided"):
            row.pop(key, None)
    (tmp_path / "old.json").write_text(json.dumps(old))
    assert [row.cpu_steal for row in reader.results(tmp_path / "old.json").latency] == [None, None]
    assert [v.undecided for v in TypeAdapter(list[Verdict]).validate_python(old["verdict"])] == [False]


def test_two_outputs_can_be_compared(done: Path, tmp_path: Path) -> None:
    faster = report(done)
    for row in faster["latency"]:
        row["p50_ms"], row["samples"] = row["p50_ms"] / 9, [sample / 9 for sample in row["samples"]]
    (tmp_path / "report.json").write_text(json.dumps(faster))
    answer = CliRunner().invoke(cli, ["compare", str(tmp_path), str(done)])
    assert answer.exit_code == 0, answer.output
    assert answer.stdout.count("worse ") == len(faster["latency"]) == 2


def test_a_hand_written_manifest_is_packed_first(tmp_path: Path) -> None:
    manifest, members = contents()
    path = bundles.unpack(tmp_path, manifest, members)
    outcome = bundled.profile(path, local(), QUIET, tmp_path / "out", operators=False)
    assert outcome.bundle == tmp_path / "out" / "waste.edgekit"
    assert all(row["vectors"] == 3 and not row["problem"] for row in report(outcome.out)["golden"])


def test_what_the_bundle_does_not_say_is_not_invented(tmp_path: Path) -> None:
    """Two formats; no scores, no precision, no golden vectors; the ONNX file is not what the manifest says."""
    path = model_files.bundled(tmp_path / "hand.edgekit")
    outcome = bundled.profile(path, local(engines=["litert", "onnxruntime"]), QUIET, tmp_path / "out", operators=False)
    (chosen,), found = outcome.verdict, report(outcome.out)
    assert chosen.artifact is not None
    assert "these files have no accuracy scores, so accuracy was ignored" in chosen.reason
    assert (chosen.top1_drop, found["accuracy"]) == (None, [])
    assert {(a["precision"], a["float_ops"]) for a in found["artifacts"]} == {("unknown", -1)}
    (row,) = (row for row in found["golden"] if row["artifact"] == "tflite-int8")
    assert (row["vectors"], row["away"]) == (0, None)
    assert chosen.artifact != "tflite-int8" or "the bundle has no golden vectors for it" in chosen.reason
    (failure,) = (f for f in found["failures"] if f["artifact"] == "onnx-int8")
    assert failure["reason"].startswith("golden: ")
    assert "the manifest says" in failure["reason"]
    assert "none in the bundle" in (outcome.out / "report.md").read_text()


def test_a_signature_is_told(tmp_path: Path) -> None:
    path = bundles.write(tmp_path / "waste.edgekit", bundles.sign(bundles.seal(*contents())))
    nothing = Profile({}, ())
    found = bundled._report(bundled._opened(path), [], claims(), [], nothing, {}, [])
    for render in (html.render, markdown.render):
        assert bundles.public() in render(found)
    assert found.provenance.source is not None
    assert found.provenance.source.signed_by == bundles.public()


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundled._opened(packed(tmp_path_factory.mktemp("opened")))


# Scores --------------------------------------------------------------------------------------------


STATED = {"engine": "torch", "engine_version": "2", "device": "host", "split": "test", "images": 40, "top1": 0.95}


def claims(**changes: Any) -> Any:
    manifest, _ = contents()
    return bundled._claims({**manifest, **changes})


def test_the_score_of_torch_is_the_stated_one() -> None:
    found = claims(provenance={"reference": STATED})
    assert (found.accuracy[0].artifact, found.accuracy[0].top1, found.max_drop) == ("torch-fp32", 0.95, 1.0)
    assert found.notes == ()


@pytest.mark.parametrize("stated", [None, {}, [], {**STATED, "top1": "much"}, {**STATED, "top1": 7}, {"device": 1}])
def test_else_that_of_a_file_which_agrees_with_it_everywhere(stated: Any) -> None:
    found = claims(provenance={"reference": stated})
    assert (found.accuracy[0].artifact, found.accuracy[0].top1) == ("torch-fp32", 0.9)
    assert found.notes == ("torch fp32 gets the score of fp32-onnx: they agree on all 40 test images",)


def test_else_its_bound_is_not_checked_and_that_is_said() -> None:
    manifest, _ = contents()
    found = bundled._claims({**manifest, "artifacts": manifest["artifacts"][:1]})
    assert [row.artifact for row in found.accuracy] == ["int8-onnx"]
    assert found.max_drop is None
    assert found.notes == ("it has no score of torch fp32: max_drop = 1 of its recipe cannot be checked",)


def test_scores_of_too_few_images_are_warned_of(opened: Bundle) -> None:
    found = bundled._report(opened, [], claims(), [], Profile({}, ()), {}, [])
    assert len(found.warnings) == 1
    assert "test split, when packed: one of 40 images is 2.5 points of top-1" in found.warnings[0]
    assert bundled._warnings(claims(recipe={"quantize": {"max_drop": 2.5}})) == []


def test_a_score_of_no_known_split_does_not_count() -> None:
    manifest, _ = contents()
    del manifest["artifacts"][0]["accuracy"][0]["split"]
    found = bundled._claims(manifest)
    assert [row.artifact for row in found.accuracy] == ["torch-fp32", "fp32-onnx"]
    assert found.notes[0] == "the score of int8-onnx on onnxruntime names no known split, so it was ignored"


@pytest.mark.parametrize(
    ("quantize", "said"),
    [
        ("plain", "quantize of the manifest is not a section"),
        (True, "quantize of the manifest is not a section"),
        ({"max_drop": "1"}, "max_drop of the manifest is not a number"),
        ({"max_drop": [1]}, "max_drop of the manifest is not a number"),
        ({"max_drop": True}, "max_drop of the manifest is not a number"),
    ],
)
def test_a_bound_that_is_none_is_refused(quantize: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        claims(recipe={"quantize": quantize})


def test_a_file_that_loses_too_much_is_not_shipped(tmp_path: Path) -> None:
    manifest, members = contents()
    manifest["artifacts"][0]["accuracy"][0]["top1"] = 0.8
    path = packed(tmp_path, manifest, members)
    (chosen,) = bundled.profile(path, local(), QUIET, tmp_path / "out", operators=False).verdict
    assert chosen.artifact == "fp32-onnx"


@pytest.mark.parametrize("accuracy", [None, report_sample.report().accuracy])
def test_what_is_refused_is_not_shipped_whatever_else_speaks_for_it(accuracy: Any) -> None:
    sample, limits = report_sample.report(), LimitsSection()

    def choose(refused: dict[tuple[str, str], str]) -> Any:
        scores: tuple[Accuracy, ...] | None = accuracy
        return verdict.decide(sample.verdict[0].device, sample.artifacts, scores, sample.latency, limits, None, refused)

    best = choose({})
    assert ("no accuracy scores" in best.reason) == (accuracy is None)
    other = choose({(best.artifact, best.engine): "the reason"})
    assert (other.artifact, other.engine) != (best.artifact, best.engine)
    assert "the reason" in other.reason
    every = {(t.artifact, t.engine): "no" for t in sample.latency}
    assert choose(every).artifact is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(["packages", "seeds", "hashes", "git_commit", "edgekit", "reference", "quantize", "description"])
TABLE = st.dictionaries(KEYS, JSON | st.dictionaries(st.sampled_from(["top1", "device", "max_drop"]), JSON), max_size=6)


@settings(max_examples=60, deadline=None)
@given(TABLE, TABLE | st.none())
def test_whatever_the_schema_leaves_open_is_reported_or_refused(opened: Bundle, provenance: Any, recipe: Any) -> None:
    odd = replace(opened, manifest={**opened.manifest, "provenance": provenance, "recipe": recipe})
    try:
        said = bundled._claims(odd.manifest)
    except InputError:
        return
    found = bundled._report(odd, [], said, [], Profile({}, ()), {}, [])
    Draft202012Validator(SCHEMA).validate(json.loads(json_report.render(found)))
    Page(html.render(found))
    markdown.render(found)


# Golden vectors ------------------------------------------------------------------------------------


def test_a_file_that_computes_something_else_here_is_not_shipped(tmp_path: Path) -> None:
    """Golden output that this CPU cannot give."""
    outcome = bundled.profile(spoilt(tmp_path), local(), QUIET, tmp_path / "out", operators=False)
    (chosen,), found = outcome.verdict, report(outcome.out)
    assert chosen.artifact == "fp32-onnx"
    (row,) = (row for row in found["golden"] if row["problem"])
    assert row["artifact"] == "int8-onnx"
    cpu = found["machines"]["host"]["cpu"]
    for words in ("golden vector 2 of 3 is ", " steps away, at most 1 is allowed (1 differ; onnxruntime ", cpu):
        assert words in row["problem"]
        assert words in " ".join(Page((outcome.out / "report.html").read_text()).text)
    text = (outcome.out / "report.md").read_text()
    assert "host: match for 1 of 2 files and engines" in text
    assert "int8-onnx on onnxruntime does not match its golden vectors: golden vector 2 of 3" in text
    again = report(bundled.profile(packed(tmp_path), local(), QUIET, tmp_path / "out", operators=False).out)
    assert not any(row["problem"] for row in again["golden"])


def test_no_file_that_computes_what_it_should() -> None:
    sample = report_sample.report()
    name = sample.verdict[0].device
    here = [t for t in sample.latency if t.device == name]
    rows = tuple(Replay(t.artifact, t.engine, "1", "cpu", name, 8, None, "steps", 0, "wrong") for t in here)
    profile = Profile(sample.machines, tuple(here), golden=rows)
    none: Any = bundled._Claims(sample.accuracy, None, ())
    found = bundled._verdict(name, Device(name=name), sample.artifacts, none, profile)
    assert found.artifact is None
    assert "it fails its golden vectors: wrong" in found.reason


def test_vectors_that_are_malformed_are_a_problem(tmp_path: Path) -> None:
    manifest, members = contents()
    path = packed(tmp_path, manifest, {**members, "golden/int8-onnx.npy": b"no array"})
    answer = replay.replay(str(path), "int8-onnx", "onnxruntime", 1, None)
    assert (answer["vectors"], answer["away"]) == (0, None)
    assert answer["problem"].startswith("golden/int8-onnx.npy: not an .npy array")


def test_a_model_that_is_not_as_the_manifest_says_cannot_be_replayed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFault, match="the manifest says"):
        replay.replay(str(model_files.bundled(tmp_path / "a.edgekit")), "onnx-int8", "onnxruntime", 1, None)


@pytest.mark.parametrize(
    "answer",
    [{}, {"vectors": -1}, {"version": "1", "provider": "p", "vectors": 8, "away": float("nan"), "unit": "steps"}],
)
def test_nonsense_is_refused(answer: dict[str, Any]) -> None:
    row = report_sample.timing("tflite-int8", "litert", 1.0)
    with pytest.raises(WorkerFault, match="the replaying process answered"):
        golden._row(row, answer)


def test_why_nothing_was_replayed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = json.dumps({"error": "the engine is on fire"})
    monkeypatch.setattr(golden, "ARGV", ("-c", f"input(); print({said!r}, flush=True)"))
    outcome = bundled.profile(packed(tmp_path), local(), QUIET, tmp_path / "out", operators=False)
    (chosen,), found = outcome.verdict, report(outcome.out)
    assert "its golden vectors were not replayed there: the engine is on fire" in chosen.reason
    assert [f["reason"] for f in found["failures"]] == ["golden: the engine is on fire"] * 2
    assert "was not timed" not in (outcome.out / "report.md").read_text()


def test_a_report_of_golden_vectors_escapes_what_came_from_outside() -> None:
    sample = report_sample.report()
    row = Replay(HOSTILE, HOSTILE, HOSTILE, HOSTILE, sample.devices[0], 8, None, HOSTILE, 0, HOSTILE)
    shown = replace(sample, golden=(row,))
    assert "<script>alert" not in html.render(shown)
    Page(html.render(shown))
    assert "<script>" not in markdown.render(shown).replace("\\<", "")


# Devices -------------------------------------------------------------------------------------------


def test_a_lost_device_costs_its_own_rows(board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = packed(tmp_path), tmp_path / "out"
    devices = {**local(), "pi": board.device("pi", seconds=0.02, rounds=1, reach={"timeout": 2.0})}
    board.stop()
    first = bundled.profile(path, devices, QUIET, out, operators=False)
    assert {failure.device for failure in first.lost} == {"pi"}
    assert [v.artifact is not None for v in first.verdict] == [True, False]
    before = report(out)
    board.start()
    measured: list[str] = []
    measure = run._measure

    def spy(jobs: Any, target: Any, *more: Any) -> Any:
        measured.append(target.name)
        return measure(jobs, target, *more)

    monkeypatch.setattr(run, "_measure", spy)
    second = bundled.profile(path, devices, QUIET, out, operators=False)
    assert (set(measured), second.lost) == ({"pi"}, ())
    found = report(out)
    assert [row for row in found["latency"] if row["device"] == "host"] == before["latency"]
    for key in ("latency", "golden"):
        assert {row["device"] for row in found[key]} == {"host", "pi"}
    assert all(row["vectors"] == 3 and not row["problem"] for row in found["golden"])


def test_a_device_lost_while_vectors_are_replayed(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cutting(Console):
        @contextmanager
        def bar(self, title: str, total: int) -> Iterator[Any]:
            if title.startswith("golden"):
                board.stop()
            yield lambda steps=1, status="": None

    path, out = packed(tmp_path), tmp_path / "out"
    devices = {"pi": board.device("pi", seconds=0.02, rounds=1, reach={"timeout": 2.0})}
    found = bundled.profile(path, devices, Cutting(quiet=True), out, operators=False)
    assert {failure.reason.split(":")[0] for failure in found.lost} == {"golden"}
    assert "its golden vectors were not replayed there" in found.verdict[0].reason
    board.start()
    monkeypatch.setattr("edgekit.profile.run._measure", None)
    assert bundled.profile(path, devices, QUIET, out, operators=False).lost == ()


def test_limits_of_a_device_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hotspots, "find", None)  # operators = false: they are not timed
    tight = local()["host"].model_copy(update={"limits": LimitsSection(size_mb=1e-6)})
    (chosen,) = bundled.profile(packed(tmp_path), {"host": tight}, QUIET, tmp_path / "out", operators=False).verdict
    assert chosen.artifact is None
    assert "over the 1e-06 MB allowed" in chosen.reason


# Bad input -----------------------------------------------------------------------------------------


def complaint(answer: Result, code: int) -> str:
    """The one line it ends with."""
    assert answer.exit_code == code, answer.output
    assert answer.stdout == ""
    assert "Traceback" not in answer.stderr
    *_, last = answer.stderr.splitlines()
    assert last.startswith("edgekit: ")
    return last.removeprefix("edgekit: ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--device", "no-such"), '"no-such": no such device'),
        (("--device", "no/such.toml"), "no/such.toml: no such device file"),
        (
            ("--set", "train.epochs=2"),
            '--set "train.epochs": the models of a bundle are already built: only profile.operators',
        ),
        (
            ("--set", "profile.accuracy_images=2"),
            '--set "profile.accuracy_images": the models of a bundle are already built',
        ),
        (("--set", "profile.operators=maybe"), "profile.operators"),
        (("--sustained", "long"), "profile.sustained"),
        (("--device", "host", "--device", "host"), 'another device in this run is also called "host"'),
    ],
)
def test_bad_words_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in complaint(call(packed(tmp_path), *words), 2)
    assert not (tmp_path / "profiles").exists()


def test_bad_files_are_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    whole = packed(tmp_path).read_bytes()
    files = {
        "text.edgekit": b"not a bundle",
        "damaged.edgekit": whole.replace(b"cardboard", b"cardbxard"),
        "short.edgekit": whole[:-1],
        "renamed.zip": whole[:300],
        "other.json": b"{}",
        "model.tflite": b"TFL3",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        assert name in complaint(call(name), 2)
    assert "no such" in complaint(call("missing.edgekit"), 2).lower()
    assert not (tmp_path / "profiles").exists()


def test_other_commands_take_no_bundle(tmp_path: Path) -> None:
    answer = CliRunner().invoke(cli, ["compress", str(packed(tmp_path))])
    assert "is a bundle, which is already built; edgekit profile" in complaint(answer, 2)


def test_a_run_directory_is_no_place_for_it(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text("{}")
    assert "a run directory; give --out another folder" in complaint(call(packed(tmp_path), "--out", tmp_path), 2)
    taken = tmp_path / "file"
    taken.touch()
    assert str(taken) in complaint(call(packed(tmp_path), "--out", taken), 2)


def test_nothing_measured_is_a_failure(tmp_path: Path, quick: Path) -> None:
    quick.write_text(QUICK.replace("onnxruntime", "litert"))
    message = complaint(call(packed(tmp_path), "--device", quick, "--out", tmp_path / "out"), 1)
    assert "none of its engines (litert) runs onnx files" in message
    with pytest.raises(Shortfall):
        bundled.profile(packed(tmp_path), local(engines=["litert"]), QUIET, tmp_path / "out")


def test_outputs_are_compared_with_numpy(tmp_path: Path) -> None:
    """The distance that is told, against the model on paper."""
    path = spoilt(tmp_path, by=1)
    answer = replay.replay(str(path), "int8-onnx", "onnxruntime", 1, None)
    infer = bundles.infer(bundles.model(int8=True), tmp_path)
    wanted = bundles.quantized(bundles.expected(bundles.pixels())).astype(int)
    wanted[1, 2] += 1 if wanted[1, 2] < 0 else -1
    found = np.stack([infer(image).reshape(-1) for image in bundles.pixels()])
    assert answer["away"] == np.abs(found - wanted).max()


def test_a_float_file_that_ties_is_called_smaller_than_the_one_it_ties_with() -> None:
    """The fastest float file bars int8; the one that ships is as fast as that one, but larger than int8."""
    sizes = {artifact.id: artifact.bytes for artifact in report_sample.ARTIFACTS}
    smaller, larger = sorted(("onnx-fp32", "tflite-fp32"), key=sizes.__getitem__)
    engines = {"onnx-fp32": "onnxruntime", "tflite-fp32": "litert"}
    times = [
        report_sample.timing(larger, engines[larger], 10.0),
        report_sample.timing("onnx-int8", "onnxruntime", 10.05),
        report_sample.timing(smaller, engines[smaller], 10.1),
    ]
    times = [replace(row, round_sizes=(), samples=(), p50_ci=None) for row in times]
    found = verdict.decide("host", report_sample.ARTIFACTS, None, times, LimitsSection(), None)
    assert found.artifact == smaller
    first = (
        f"as fast as {larger} on {engines[larger]}, 1 thread (10.0 ms) within measurement error, and the smaller file"
    )
    assert first in found.reason
    assert "onnx-int8 on onnxruntime, 1 thread (10.1 ms) does not beat the fastest float file" in found.reason


def test_a_long_name_of_a_layer_is_cut_in_sentences() -> None:
    name = "exporter.Wrapper/net.Net_wrapped/" + "torch.nn.Sequential_features/" * 3 + "Conv_3/ReLU6_2;;exporter/x"
    short = operators.shown(name)
    assert len(short) == operators.LONGEST
    assert short.startswith("…")
    assert short.endswith("Conv_3/ReLU6_2")
    assert operators.shown("features.3.conv") == "features.3.conv"
