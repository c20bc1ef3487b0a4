"""The sections of the HTML report on devices, and the CSV."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import numpy as np
import pytest

from edgekit.report.formats import csv as csv_format
from edgekit.report.formats import html
from tests.report_pages import Page, bare, lost
from tests.report_sample import full, report, timing


def test_html_never_mixes_kinds_in_a_chart() -> None:
    """Every chart with times names one kind; the marks of other kinds are hatched by their block's class."""
    sample = report()
    both = replace(sample, latency=(*sample.latency, timing("tflite-int8", "litert", 0.1, kind="estimated")))
    page = Page(html.render(both))
    names = [a["aria-label"] or "" for _, a in page.tags if a.get("role") == "img"]
    timed = [name for name in names if any(kind in name for kind in ("measured", "emulated", "estimated"))]
    assert len(timed) >= 10
    assert all(sum(kind in name for kind in ("measured", "emulated", "estimated")) == 1 for name in timed)
    assert all("0.100" not in name for name in timed if "measured" in name)
    assert {"kind-measured", "kind-emulated", "kind-estimated"} <= {a.get("class") for _, a in page.tags}
    for name in (word for t, a in page.tags if t == "table" for word in [a.get("class")]):
        assert name is None


def test_html_says_what_was_not_measured_and_how_it_was() -> None:
    words = " ".join(" ".join(Page(html.render(report())).text).split())
    for needed in (
        "0.840 (0.823\N{EN DASH}0.865)",
        "48, steady",
        "12.5 RAPL package",
        "not measured",
        "two-stage bootstrap",
        "The ten slowest",
        "throttled",
        "DEPTHWISE_CONV_2D",
        "emulated : run on an emulated processor",
    ):
        assert needed in words, needed
    assert "two-stage bootstrap" not in "".join(Page(html.render(lost())).text)


def test_html_names_a_lost_device_and_why() -> None:
    words = " ".join("".join(Page(html.render(lost())).text).split())
    assert "Nothing to ship" in words
    assert "onnxruntime has no wheel for armv6" in words


def test_html_of_ten_devices_is_small_and_folds() -> None:
    """Ten devices x eight artifacts x two thread counts, 3000 samples each (made from one list, thinned alike)."""
    sample = report()
    times = tuple(float(t) for t in np.random.default_rng(0).lognormal(0, 0.05, 3000))
    row = replace(full(timing("tflite-int8", "litert", 1.0)), samples=times)
    rows = tuple(
        replace(row, device=f"device {d}", artifact=f"{file.id}", threads=n, engine=engine)
        for d in range(10)
        for file in sample.artifacts
        for engine in ("litert", "onnxruntime")
        for n in (1, 4)
    )
    operators = tuple(replace(each, device=f"device {d}") for d in range(10) for each in sample.operators)
    text = html.render(replace(sample, latency=rows, operators=operators))
    assert len(text.encode()) < 2_000_000
    page = Page(text)
    folds = [a for t, a in page.tags if t == "details" and "fold" in (a.get("class") or "")]
    assert sum(a.get("class") == "fold device" for a in folds) >= 10
    assert not any("open" in a for a in folds)


# CSV


def test_csv_has_a_line_a_timing() -> None:
    sample = report()
    found = list(csv.DictReader(io.StringIO(csv_format.render(sample))))
    assert len(found) == len(sample.latency)
    shipped = next(row for row in found if row["ships"] == "true")
    assert (shipped["artifact"], shipped["threads"], shipped["kind"]) == ("tflite-int8", "2", "measured")
    assert float(shipped["p50_low_ms"]) == pytest.approx(0.98 * 0.84)
    assert (shipped["energy"], shipped["file_bytes"], shipped["governor"]) == ("RAPL package", "2412640", "performance")
    assert found[0]["end_to_end_ms"] == found[0]["p50_low_ms"] == ""
    assert list(csv.DictReader(io.StringIO(csv_format.render(bare())))) == []


def test_csv_quotes_and_defuses_what_comes_from_outside() -> None:
    sample = report()
    rows = tuple(replace(t, device='=1+1,"x"', provider="a,b\nc") for t in sample.latency)
    found = list(csv.DictReader(io.StringIO(csv_format.render(replace(sample, latency=rows)))))
    assert {row["device"] for row in found} == {'\'=1+1,"x"'}
    assert {row["provider"] for row in found} == {"a,b\nc"}


def test_an_estimate_shows_its_error_bar_and_nothing_that_was_not_measured() -> None:
    row = replace(
        timing("tflite-int8", "litert", 40.0, device="rpi", kind="estimated"),
        samples=(), load_ms=0.0, first_ms=0.0, rss_bytes=0, rounds=0, p50_ci=(32.0, 48.0), instructions=1_234_567,
    )  # fmt: skip
    sample = replace(report(), latency=(row,))
    words = " ".join(" ".join(Page(html.render(sample)).text).split())
    for needed in ("40.0 (32.0\N{EN DASH}48.0)", "with its error bar", "none; 1,234,567 instructions", "not measured"):
        assert needed in words
    assert "Peak memory" not in words
    cells = next(csv.DictReader(io.StringIO(csv_format.render(sample))))
    assert (cells["p50_ms"], cells["p50_low_ms"], cells["instructions"]) == ("40.0", "32.0", "1234567")
    assert cells["p90_ms"] == cells["load_ms"] == cells["rss_bytes"] == cells["p99_low_ms"] == ""
