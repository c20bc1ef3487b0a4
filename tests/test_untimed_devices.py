"""What hangs on the clock where a device is emulated or is not reached: choices, reports, limits."""

from __future__ import annotations

import csv
import io
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from edgekit.config.recipe import PruneSection
from edgekit.device.file import Device, LimitsSection
from edgekit.disk import json_file
from edgekit.errors import InputError, Shortfall
from edgekit.pipeline.stages import lower
from edgekit.report import results
from edgekit.report.formats import csv as csv_report
from edgekit.search import pruning_choice, rewrites, trial_files
from edgekit.search import stopwatch as watches
from edgekit.types import InputSpec, Rewrite, Sample
from edgekit.verdict import rule as verdict
from tests import nets, report_sample
from tests.test_choose import HOST, QUIET, chain

EMULATED = {"rpi": Device.model_validate({"name": "rpi", "reach": {"by": "qemu", "cpu": "cortex-a76"}})}
PAIR = {"onnx": ("without", "with")}


@pytest.fixture
def down() -> dict[str, Device]:
    """A device at a port where nobody listens."""
    if shutil.which("ssh") is None:
        pytest.skip("no ssh (apt-get install openssh-client)")
    reach = {"by": "ssh", "host": "127.0.0.1", "port": 1, "config": "/dev/null", "timeout": 3}
    return {"pi": Device.model_validate({"name": "pi", "reach": reach, "run": {"engines": ["onnxruntime"]}})}


def timed(folder: Path, devices: Mapping[str, Device]) -> tuple[trial_files.Trials, Rewrite]:
    files = {"without": chain(folder / "a.onnx", 60), "with": chain(folder / "b.onnx", 2)}
    trials = trial_files.time_files(files, devices, QUIET, seconds=0.05)
    return trials, rewrites._timed("silu", "graph", trials, PAIR)


def test_a_device_that_is_down_has_no_say(tmp_path: Path, down: dict[str, Device]) -> None:
    trials, row = timed(tmp_path, down)
    assert trials.rows == ()
    assert (row.applied, row.device, row.lost) == (True, None, True)
    assert row.reason.startswith("not measured: pi: cannot be reached by ssh: connect to host 127.0.0.1 port 1: ")
    assert "\n" not in row.reason


def test_the_others_decide_in_its_place(tmp_path: Path, down: dict[str, Device]) -> None:
    trials, row = timed(tmp_path, {**down, **EMULATED, **HOST})
    assert {trial.device for trial in trials.rows} == {"host"}
    assert trials.emulated == ("rpi",)
    assert (row.applied, row.device, row.lost) == (True, "host", True)
    assert "not reached: pi: cannot be reached by ssh: " in row.reason


def test_on_an_emulated_device_nothing_is_timed(tmp_path: Path) -> None:
    _, row = timed(tmp_path, EMULATED)
    assert (row.applied, row.reason, row.lost) == (True, "not measured: rpi is emulated", False)


def test_a_device_that_was_lost_is_asked_another_time(tmp_path: Path) -> None:
    rows = [Rewrite("silu", "graph", True, "not measured: pi: cannot be reached", lost=True)]

    def where(count: int) -> int:
        json_file.save(tmp_path / "rewrites.json", rows[:count])
        found = SimpleNamespace(path=tmp_path, inputs={"where": {"lost": 4}})
        recipe = SimpleNamespace(lower=SimpleNamespace(rewrites=None, measure=True))
        state: Any = SimpleNamespace(
            recipe=recipe,
            trial_formats=(),
            job=SimpleNamespace(devices=HOST),
            directory=SimpleNamespace(find=lambda _: found),
        )
        return int(lower.where(state, "lower")["lost"])

    assert (where(0), where(1)) == (4, 5)


# --- reports and limits


ESTIMATED: dict[str, Any] = {"kind": "estimated", "samples": (), "rss_bytes": 0, "load_ms": 0.0, "first_ms": 0.0}


def test_what_an_estimate_does_not_tell_is_empty() -> None:
    sample = report_sample.report()
    row = replace(report_sample.timing("tflite-int8", "litert", 40.0, device="rpi"), **ESTIMATED, p50_ci=(30.0, 50.0))
    shown = replace(sample, latency=(row,), operators=(), verdict=())
    (cells,) = csv.DictReader(io.StringIO(csv_report.render(shown)))
    unknown = ("p90_ms", "p99_ms", "min_ms", "mean_ms", "first_ms", "load_ms", "rss_bytes", "rounds")
    assert {cells[name] for name in unknown} == {""}
    assert (cells["p50_ms"], cells["p50_low_ms"], cells["p50_high_ms"]) == ("40.0", "30.0", "50.0")
    page = "".join(results.measurements(shown, "rpi"))
    columns = re.findall(r"<th[^>]*>([^<]*)</th>", page.partition("</thead>")[0])
    (body,) = re.findall(r"<tbody>(.*?)</tbody>", page, re.DOTALL)
    values = dict(zip(columns, re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", body, re.DOTALL), strict=True))
    assert {values[name] for name in ("p90", "p99", "min", "first", "load")} == {"—"}
    assert values["p50 (95 % interval)"] == "40.0<small> (30.0\N{EN DASH}50.0)</small>"
    assert "peak MB" in page.partition("</table>")[2]  # all of that column is missing: said below it


@pytest.mark.parametrize("limit", [39.0, 41.0])
def test_an_estimate_is_held_against_limits_by_name(limit: float) -> None:
    rows = [replace(report_sample.timing("tflite-int8", "litert", 40.0), **ESTIMATED, p90_ms=40.0)]
    scores = [report_sample.accuracy("tflite-int8", "litert", 0.9)]
    limits = LimitsSection(p90_ms=limit, rss_mb=10.0)
    found = verdict.decide("host", report_sample.ARTIFACTS, scores, rows, limits, None)
    assert (found.artifact is None) == (limit < 40)
    if limit < 40:
        assert "its estimated time of 40 ms is 3 % over the 39 ms allowed" in found.reason
    else:
        assert "its peak memory was not measured, so the 10 MB limit was not checked" in found.reason


# --- prune.latency


def stopwatch(devices: Mapping[str, Device], folder: Path, latency: bool) -> tuple[Any, str]:
    section = PruneSection(latency=0.5) if latency else PruneSection(macs=0.5)
    net = nets.settled(nets.Net(lambda net, x: net.head(net.stem(x)), stem=nets.conv(3, 8, 3), head=nets.head(8)))
    spec = InputSpec(nets.SIZE, (0.5,) * 3, (0.5,) * 3)
    for name in "ab":
        Image.new("RGB", (40, 40), {"a": "red", "b": "blue"}[name]).save(folder / f"{name}.png")
    samples = tuple(Sample(f"{name}.png", label, "train", "") for label, name in enumerate("ab"))
    index: Any = SimpleNamespace(split=lambda _: samples, labels=("a", "b"))
    given = pruning_choice.Given("net", section, spec, index, folder, None, devices, ["onnx"], None, folder, QUIET)
    return pruning_choice.stopwatch(net, given, folder)


def test_pruning_to_a_latency_needs_a_clock(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"prune.latency needs a device where time is measured, but rpi is emulated"):
        stopwatch(EMULATED, tmp_path, latency=True)
    assert stopwatch(EMULATED, tmp_path, latency=False) == (None, "not measured: rpi is emulated")


def test_pruning_measures_on_the_first_device_with_a_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "SECONDS", 0.1)
    clock, where = stopwatch({**EMULATED, **HOST}, tmp_path, latency=True)
    assert where.endswith(", 1 thread, on host")
    before, after = clock(nets.settled(nets.Net(lambda net, x: net.head(x), head=nets.head(3))))
    assert before > after > 0


def test_pruning_on_a_device_that_is_down(tmp_path: Path, down: dict[str, Device]) -> None:
    with pytest.raises(Shortfall, match=r"prune.latency: pi: cannot be reached by ssh: ") as caught:
        stopwatch(down, tmp_path, latency=True)
    assert "\n" not in str(caught.value)
    clock, why = stopwatch(down, tmp_path, latency=False)
    assert clock is None
    assert why.startswith("not measured: pi: cannot be reached by ssh: ")
