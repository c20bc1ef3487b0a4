"""Two reports compared: what is called a change, what is not compared, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.cli.main import cli
from edgekit.disk.run_directory import RunDirectory
from edgekit.errors import InputError
from edgekit.measurements import Timing
from edgekit.report import comparison, comparison_text, reader
from edgekit.report.contents import Report
from edgekit.report.formats import json as json_format
from edgekit.verdict import stats
from tests.report_sample import report


def timed(t: Timing, factor: float = 1.0, seed: int = 0, noise: float = 0.01) -> Timing:
    """The row with 5 rounds of 40 samples around `factor` times its p50."""
    generator = np.random.default_rng(seed)
    flat = tuple(map(float, factor * t.p50_ms * np.exp(generator.normal(0, noise, 200))))
    figures: dict[str, Any] = {**stats.summary(flat), **stats.intervals(flat, (40,) * 5)}
    return replace(t, samples=flat, **figures)


def made(factor: float = 1.0, seed: int = 0, **changes: Any) -> Report:
    """The hand-written report with real samples; host rows are `factor` times as slow."""
    sample = report()
    rows = tuple(timed(t, factor if t.device == "host" else 1.0, 100 * seed + i) for i, t in enumerate(sample.latency))
    return replace(sample, latency=rows, **changes)


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    def write(made_: Report, name: str = "report.json") -> Path:
        path = tmp_path / name
        path.write_text(json_format.render(made_), encoding="utf-8")
        return path

    return write


@pytest.fixture
def between(save: Callable[..., Path]) -> Callable[[Report, Report], comparison.Comparison]:
    def compare(old: Report, new: Report) -> comparison.Comparison:
        return comparison.compare(reader.results(save(old, "old.json")), reader.results(save(new, "new.json")))

    return compare


Between = Callable[[Report, Report], comparison.Comparison]


def invoke(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def test_equal_reports_have_no_change(between: Between) -> None:
    found = between(made(), made())
    assert len(found.rows) == 10
    assert {change.state for row in found.rows for change in row.changes} == {"same"}
    assert (found.only_old, found.only_new, found.not_compared, found.regressions()) == ((), (), (), ())


def test_two_measurements_of_the_same_files_are_called_the_same(between: Between) -> None:
    found = between(made(seed=1), made(seed=2))
    states = [change.state for row in found.rows for change in row.changes]
    assert states.count("same") >= 28  # of 30: an interval of 95 % may miss


def test_a_tenth_slower_is_found_with_its_interval(between: Between) -> None:
    found = between(made(seed=1), made(1.1, seed=2))
    for row in found.rows:
        p50 = row.changes[0]
        assert p50.quantity == "p50"
        assert p50.ci is not None
        if row.device == "host":
            assert p50.state == "worse"
            assert 0 < p50.ci[0] < 0.1 < p50.ci[1] < 0.2
        else:
            assert p50.ci[0] < 0 < p50.ci[1] or abs(p50.relative) < 0.02
    assert len(found.regressions(0.05)) == 8
    assert not found.regressions(0.2)
    assert all(row.changes[0].state == "better" for row in between(made(1.1), made()).rows if row.device == "host")


def test_each_quantity_has_its_unit(between: Between) -> None:
    """Top-1 in points: 0.840 to 0.850 is 1.0 points, not 1.2 %."""
    old, new = (
        replace(report(), accuracy=tuple(replace(row, top1=top1) for row in report().accuracy)) for top1 in (0.84, 0.85)
    )
    words = comparison_text.plain(between(old, new), None)
    assert "top-1 84.00 % → 85.00 % +1.0 points (" in words
    assert re.search(r"p50 [\d.]+ ms \+0\.0 %", words)


def test_reports_on_different_things_are_compared_with_a_warning(between: Between) -> None:
    recipe = {"model": {"name": "mobilenetv2_100"}, "data": {"source": "digits", "path": None}}
    other = {**recipe, "data": {"source": "image_folder", "path": "trash"}}
    found = between(replace(report(), recipe=recipe), replace(report(), recipe=other))
    assert found.differs == ("data digits then, image_folder trash now",)
    assert all(change.quantity != "top-1" for row in found.rows for change in row.changes)
    words = "data digits then, image_folder trash now: these reports are not on the same thing"
    assert f"warning: {words}" in comparison_text.plain(found, None)
    assert f"- {words}" in comparison_text.markdown(found, None)
    assert between(replace(report(), recipe=recipe), replace(report(), recipe=recipe)).differs == ()


def test_noise_hides_a_change(between: Between) -> None:
    old, new = (
        replace(report(), latency=tuple(timed(t, factor, seed, noise=0.5) for t in report().latency))
        for factor, seed in ((1.0, 1), (1.02, 2))
    )
    found = between(old, new)
    assert {row.changes[0].state for row in found.rows} == {"same"}


def test_rows_without_samples_are_never_called_different(between: Between) -> None:
    old, new = (
        replace(report(), latency=tuple(replace(t, p50_ms=f * t.p50_ms, samples=()) for t in report().latency))
        for f in (1, 2)
    )
    found = between(old, new)
    assert all(row.changes[0].ci is None and row.changes[0].state == "same" for row in found.rows)
    assert found.rows[0].changes[0].relative == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("what", "words", "counts"),
    [
        ({"engine_version": "9.9"}, "9.9 now", True),
        ({"provider": "CUDAExecutionProvider"}, "CUDAExecutionProvider now", False),
    ],
)
def test_another_engine_is_named(between: Between, what: dict[str, Any], words: str, counts: bool) -> None:
    new = made(1.2, seed=1)
    new = replace(new, latency=tuple(replace(t, **what) for t in new.latency))
    row = between(made(), new).rows[0]
    assert words in row.differs[0]
    assert row.counts == counts


@pytest.mark.parametrize("what", [{"governor": "powersave"}, {"cpu": "another"}, {"cores": 64}])
def test_another_machine_or_governor_is_named_and_does_not_count(between: Between, what: dict[str, Any]) -> None:
    new = made(1.2, seed=1)
    found = between(made(), replace(new, machines={**new.machines, "host": replace(new.machines["host"], **what)}))
    assert not found.regressions()
    assert all(row.differs == () or not row.counts for row in found.rows)
    text = comparison_text.plain(found, 0.05)
    assert f"{next(iter(what))} " in text
    assert "8 measured under different conditions not counted" in text


def test_other_threads_are_compared_with_a_warning(between: Between) -> None:
    old = made()
    new = replace(old, latency=tuple(replace(t, threads=4) for t in old.latency if t.threads == 2))
    found = between(replace(old, latency=tuple(t for t in old.latency if t.threads == 2)), new)
    assert [row.differs for row in found.rows] == [("threads 2 then, 4 now",)] * 4
    assert not any(row.counts for row in found.rows)


def test_kinds_are_never_compared(between: Between) -> None:
    old = made()
    new = replace(made(3.0), latency=tuple(replace(t, kind="estimated") for t in old.latency))
    found = between(old, new)
    assert found.rows == ()
    assert len(found.not_compared) == 10
    assert "measured then, estimated now; kinds are never compared" in found.not_compared[0]


def test_rows_on_one_side_are_listed(between: Between) -> None:
    old = made()
    found = between(replace(old, latency=old.latency[:9]), replace(old, latency=old.latency[1:]))
    assert found.only_old == ("onnx-fp32 on onnxruntime, 1 thread, host (measured)",)
    assert found.only_new == ("tflite-int8 on litert, 1 thread, Raspberry Pi Zero (emulated)",)
    assert len(found.rows) == 8


def test_accuracy_and_size_are_compared(between: Between) -> None:
    """Of 381 images, 0.88 against 0.70 is no chance; 0.88 against 0.86 may be one."""
    old = made()
    for top1, state in ((0.70, "worse"), (0.86, "same")):
        rows = tuple(replace(a, top1=top1) if a.artifact == "tflite-int8" else a for a in old.accuracy)
        files = tuple(replace(a, bytes=a.bytes * 2) if a.id == "tflite-int8" else a for a in old.artifacts)
        found = between(old, replace(old, accuracy=rows, artifacts=files))
        row = next(row for row in found.rows if row.artifact == "tflite-int8")
        assert [(c.quantity, c.state) for c in row.changes] == [("p50", "same"), ("top-1", state), ("size", "worse")]
        assert [c.quantity for _, c in found.regressions(0.5)].count("size") == 3


def test_counted_instructions_are_compared_exactly(between: Between) -> None:
    old = made()
    pair = [
        replace(old, latency=tuple(replace(t, instructions=n) for t in old.latency)) for n in (1_000_000, 1_060_000)
    ]
    found = between(*pair)
    assert len(found.regressions(0.05)) == 10
    assert "instructions 1,000,000 → 1,060,000 +6.0 %" in comparison_text.plain(found, 0.05)
    assert not between(pair[0], pair[0]).regressions()


def test_the_interval_of_two_shares_is_newcombes() -> None:
    """Newcombe 1998, table II, method 10: 56/70 against 48/80 gives 0.0524 to 0.3339."""
    assert comparison._difference((48 / 80, 80), (56 / 70, 70)) == pytest.approx((0.0524, 0.3339), abs=5e-5)


# reading


def test_a_file_without_the_later_keys_is_read(save: Callable[..., Path]) -> None:
    """What edgekit 0.1 wrote: no rounds, no intervals, no operators."""
    path = save(made())
    found = json.loads(path.read_text())
    later = ("round_sizes", "p50_ci", "p90_ci", "p99_ci", "outliers", "stable", "warmup_used", "model_bytes", "steps")
    for row in found["latency"]:
        for key in (*later, "energy_mj", "energy", "sustained", "instructions"):
            del row[key]
    del found["operators"]
    path.write_text(json.dumps(found))
    old = reader.results(path)
    assert old.latency[0].energy == "not measured"
    assert len(comparison.compare(old, old).rows) == 10


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ('{"schema_version": 1, "late', "not JSON"),
        ("[]", "not an edgekit report"),
        ('{"a": 1}', "not an edgekit report"),
        ('{"schema_version": 2, "edgekit_version": "9"}', "written by edgekit 9 with schema version 2"),
        ('{"schema_version": 0}', "with schema version 0, but this edgekit reads version 1"),
        ('{"schema_version": "1"}', "schema version 1"),
        ('{"schema_version": true}', "schema version True"),
        ('{"schema_version": 1}', "not a valid edgekit report: name"),
    ],
)
def test_what_is_not_a_report_is_refused_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        reader.results(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_intervals_that_could_hide_a_change_are_called_unclear(save: Callable[..., Path]) -> None:
    """Rounds that take 1, 2, 1, 2, 1 times as long leave the ratio open by far more than a fifth."""
    sample = made()
    shaken = np.repeat([1.0, 2.0, 1.0, 2.0, 1.0], 40)
    flat = tuple(map(float, np.array(sample.latency[0].samples) * shaken))
    figures: dict[str, Any] = {**stats.summary(flat), **stats.intervals(flat, (40,) * 5)}
    rows = (replace(sample.latency[0], samples=flat, **figures), *sample.latency[1:])
    old, new = save(sample, "old.json"), save(replace(sample, latency=rows), "new.json")
    plain = invoke("compare", old, new)
    assert plain.exit_code == 0
    assert [line.split()[0] for line in plain.stdout.splitlines()[2:4]] == ["unclear", "same"]
    assert plain.stdout.rstrip().endswith("in 10 rows; 1 too uncertain to tell")
    found = json.loads(invoke("compare", old, new, "--json").stdout)
    assert [change["unclear"] for change in found["rows"][0]["changes"]][:2] == [True, False]
    strict = invoke("compare", old, new, "--strict")
    assert strict.exit_code == 1
    assert "edgekit: too uncertain to tell whether it has changed: " in strict.stderr
    assert invoke("compare", old, old, "--strict").exit_code == 0


def test_a_wrong_value_is_named(save: Callable[..., Path]) -> None:
    path = save(made())
    found = json.loads(path.read_text())
    found["latency"][3]["kind"] = "guessed"
    path.write_text(json.dumps(found))
    with pytest.raises(InputError, match=r"latency\.3\.kind"):
        reader.results(path)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("p50_ms", 0.0, "p50_ms: times must be positive"),
        ("p50_ms", None, "p50_ms"),
        ("samples", [1.0, -1.0], "samples: times must be positive"),
        ("samples", [1.0, float("nan")], "samples: times must be positive"),
        ("samples", "fast", "samples"),
        ("round_sizes", [1, 2], "round_sizes: 3 in total, but there are 200 samples"),
        ("round_sizes", [300, -100], "round_sizes"),
        ("p50_ci", [1.0], "p50_ci"),
    ],
)
def test_impossible_times_are_refused(save: Callable[..., Path], key: str, value: object, words: str) -> None:
    path = save(made())
    found = json.loads(path.read_text())
    found["latency"][2][key] = value
    path.write_text(json.dumps(found))
    with pytest.raises(InputError, match=rf"latency\.2\.{words}"):
        reader.results(path)


TEXT = json_format.render(replace(report(), latency=report().latency[:2], operators=()))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_report_is_read_or_refused_in_one_line(tmp_path: Path, data: st.DataObject) -> None:
    """Cut short, or one place overwritten."""
    place = data.draw(st.integers(0, len(TEXT) - 1))
    with_ = data.draw(st.sampled_from(["", None, "0", '"', "null", "-1", "}", "[]", "é", "1e999"]))
    text = TEXT[:place] if with_ is None else TEXT[:place] + with_ + TEXT[place + len(with_) :]
    path = tmp_path / "report.json"
    path.write_text(text, encoding="utf-8")
    refused = ""
    try:
        found = reader.results(path)
        comparison_text.markdown(comparison.compare(found, found), 0.05)
    except InputError as error:
        refused = str(error)
    assert "\n" not in refused


def test_a_run_directory_stands_for_its_report(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        reader.find(tmp_path / "nothing")
    with pytest.raises(InputError, match="not a run directory"):
        reader.find(tmp_path)
    folder = RunDirectory(tmp_path).folder("report")
    folder.mkdir()
    (folder / "report.json").write_text("{}")
    assert reader.find(tmp_path) == folder / "report.json"
    assert reader.find(folder) == folder / "report.json"


# the command


def test_the_command_fails_on_a_regression_above_the_bound(save: Callable[..., Path]) -> None:
    old, new = save(made(seed=1), "old.json"), save(made(1.1, seed=2), "new.json")
    for words in (("report", "compare"), ("compare",)):
        done = invoke(*words, old, new, "--fail-on", "5%")
        assert done.exit_code == 1, done.output
        assert "8 significant regressions of more than 5 % in 10 rows" in done.output
    assert invoke("compare", old, new, "--fail-on", "20%").exit_code == 0
    assert invoke("compare", old, new).exit_code == 0
    assert invoke("compare", new, old, "--fail-on", "0%").exit_code == 0


def test_the_command_prints_json_and_markdown(save: Callable[..., Path]) -> None:
    old, new = save(made(seed=1), "old.json"), save(made(1.1, seed=2), "new.json")
    done = invoke("report", "compare", old, new, "--json", "--fail-on", "5%")
    found = json.loads(done.stdout)
    assert len(found["regressions"]) == 8
    assert found["rows"][0]["changes"][0]["ci"][0] > 0
    text = invoke("report", "compare", old, new, "--markdown").output
    rows = [line for line in text.splitlines() if line.startswith("| host")]
    assert len(rows) == 8
    assert all(line.endswith("| worse |") for line in rows)


@pytest.mark.parametrize("bound", ["5", "five", "-5%", "5%%", "nan%"])
def test_the_bound_has_to_be_a_percentage(save: Callable[..., Path], bound: str) -> None:
    path = save(made())
    done = invoke("report", "compare", path, path, f"--fail-on={bound}")
    assert done.exit_code == 2
    assert "is not a percentage; write it like 5%" in done.output


def test_the_command_refuses_what_it_cannot_read(tmp_path: Path, save: Callable[..., Path]) -> None:
    done = invoke("report", "compare", tmp_path / "missing", save(made()))
    assert done.exit_code == 2
    assert done.output.startswith("edgekit: ")
    assert done.output.count("\n") == 1
    assert invoke("compare", save(made()), save(made()), "--json", "--markdown").exit_code == 2


def test_reports_without_rows_are_compared(save: Callable[..., Path]) -> None:
    path = save(replace(made(), latency=()))
    for flags in ((), ("--markdown",), ("--json",)):
        done = invoke("report", "compare", path, path, "--fail-on", "1%", *flags)
        assert done.exit_code == 0, done.output
    assert (
        "0 significant regressions of more than 1 % in 0 rows"
        in invoke("compare", path, path, "--fail-on", "1%").output
    )


def test_markdown_escapes_what_comes_from_outside(between: Between) -> None:
    evil = "<script>|`x`"
    old = made(name=evil)
    rows = tuple(replace(t, device=evil) for t in old.latency)
    text = comparison_text.markdown(between(replace(old, latency=rows), replace(old, latency=rows)), None)
    assert "<script" not in text.replace("\\<script", "")
    assert "\\|\\`x" in text
