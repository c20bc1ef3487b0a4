"""The three formats of one hand-written report; the HTML also in a real browser."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from itertools import pairwise
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit import choices
from edgekit.device.file import LimitsSection
from edgekit.report import _plots, background, charts, front, markup, svg
from edgekit.report._schema import schema
from edgekit.report.contents import summarise
from edgekit.report.formats import html, markdown
from edgekit.report.formats import json as json_format
from edgekit.types import Index, Sample
from edgekit.verdict.rule import decide
from tests.report_pages import HOSTILE, Page, bare, hostile, lost, no_accuracy, one
from tests.report_sample import CONFUSION, metrics, report, timing


def test_every_format_renders_every_report() -> None:
    assert choices.names("edgekit.report.formats") == ("csv", "html", "json", "markdown")
    for name in choices.names("edgekit.report.formats"):
        module = choices.pick("edgekit.report.formats", name, "report")
        for each in (report(), bare(), hostile(), lost(), no_accuracy()):
            assert module.render(each) == module.render(each) != ""


def test_report_needs_no_heavy_package() -> None:
    code = (
        "import sys; from edgekit.verdict import rule; from edgekit.report.formats import html, markdown, json; "
        "print([name for name in ('torch', 'numpy', 'pydantic', 'PIL', 'rich') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


# gather


def test_summarise_counts_images_of_each_class_and_split() -> None:
    samples = (
        Sample("a/1", 0, "train", ""),
        Sample("a/2", 0, "train", ""),
        Sample("b/1", 1, "train", ""),
        Sample("b/2", 1, "test", ""),
    )
    assert summarise(Index("x", ("a", "b", "c"), samples)).counts == {
        "train": (2, 1, 0),
        "val": (0, 0, 0),
        "test": (0, 1, 0),
    }


def test_shown_metrics_are_those_of_the_shipped_file_or_of_torch() -> None:
    sample = report()
    shown = sample.shown_metrics()
    assert shown is not None
    assert shown[0] == "tflite-int8 on litert"
    unshipped = replace(sample, verdict=sample.verdict[1:]).shown_metrics()
    assert unshipped is not None
    assert unshipped[0] == "torch fp32"
    assert bare().shown_metrics() is None


# JSON


@pytest.mark.parametrize("make", [report, bare, hostile, lost, no_accuracy])
def test_json_matches_its_schema(make: Any) -> None:
    described = schema()
    jsonschema.Draft202012Validator.check_schema(described)
    jsonschema.Draft202012Validator(described).validate(json.loads(json_format.render(make())))


def test_json_keeps_the_promised_names_and_numbers() -> None:
    found = json.loads(json_format.render(report()))
    assert found["schema_version"] == 1
    promised = {
        "artifacts": "id format precision path sha256 bytes float_ops",
        "accuracy": "artifact engine device split images top1 agreement",
        "latency": "artifact engine engine_version provider device threads batch kind p50_ms p90_ms p99_ms samples",
        "verdict": "device artifact engine threads reason",
    }
    for name, keys in promised.items():
        assert found[name]
        assert all(set(keys.split()) <= row.keys() for row in found[name])
    assert found["latency"][3]["p99_ms"] == 1.81
    assert found["latency"][3]["samples"][1:4] == [1.32, 1.32, 1.32]
    assert found["data"]["counts"]["test"] == [sum(row) for row in CONFUSION]


def test_json_has_no_infinity() -> None:
    assert math.isinf(report().accuracy[0].sqnr_db or 0)
    text = json_format.render(report())
    assert "Infinity" not in text
    assert json.loads(text)["accuracy"][0]["sqnr_db"] is None


def test_schema_rejects_a_wrong_report_and_describes_its_fields() -> None:
    found = json.loads(json_format.render(report()))
    found["latency"][0]["kind"] = "guessed"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found, schema())
    described = schema()
    assert "execution provider" in described["$defs"]["Timing"]["properties"]["provider"]["description"].lower()
    assert set(described["required"]) == set(described["properties"]) - {
        "operators",
        "golden",
        "warnings",
        "robustness",
        "evidence",
    }  # older files have none


# Markdown


def _table(text: str) -> list[list[str]]:
    """The first one."""
    start = text.index("\n|") + 1
    lines = text[start : text.index("\n\n", start)].splitlines()
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_markdown_table_parses() -> None:
    head, rule, *rows = _table(markdown.render(report()))
    assert all(re.fullmatch(r":?-+:?", cell) for cell in rule)
    assert {len(row) for row in (head, rule, *rows)} == {11}
    assert len(rows) == 10
    first = dict(zip(head, rows[0], strict=True))
    assert first["artifact"] == "**tflite-int8**"
    assert (first["p50 ms"], first["size"], first["top-1"], first["kind"]) == (
        "0.840 (0.823 to 0.865)",
        "2.41 MB",
        "87.93 %",
        "measured",
    )


def test_markdown_says_verdicts_failures_and_skipped_stages() -> None:
    text = markdown.render(report())
    assert "- **host**: ship tflite-int8 on litert, 2 threads: p50 0.840 ms, 2.0x faster" in text
    assert "- **Raspberry Pi Zero**: nothing can be shipped" in text
    assert "onnx-int8 on onnxruntime, 1 thread, was not timed: onnxruntime has no wheel for armv6" in text
    assert "prune: not in the recipe" in text
    assert "No verdict" in markdown.render(bare())


def test_markdown_escapes_what_comes_from_outside() -> None:
    text = markdown.render(hostile())
    assert "\\<script\\>" in text
    assert not re.search(r"(?<!\\)<script", text)
    assert {len(row) for row in _table(text)} == {11}


# HTML


@pytest.mark.parametrize("make", [report, bare, hostile, lost, no_accuracy])
def test_html_is_well_formed_and_self_contained(make: Any) -> None:
    text = html.render(make())
    page = Page(text)
    assert len(text.encode()) < 500_000
    assert not re.search(r"(https?:)?//\w", re.sub(r"// [^\n]*", "", text))
    for tag, attributes in page.tags:
        assert tag not in ("iframe", "object", "embed", "img", "base")
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith(("#", "data:,"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {(a.get("href") or "")[1:] for t, a in page.tags if t == "a"} <= set(ids)


def test_html_says_the_verdict_first_and_labels_every_number() -> None:
    words = " ".join("".join(Page(html.render(report())).text).split())
    assert "Ship tflite-int8 on host, nothing on Raspberry Pi Zero" in words
    assert "ship tflite-int8 on litert, 2 threads: 0.840 ms, 2.0\N{MULTIPLICATION SIGN} as fast as float" in words
    assert "nothing to ship; 1 not measured" in words
    assert (
        words.index("tflite-int8")
        < words.index("How fast?")
        < words.index("How good?")
        < words.index("All measurements")
    )
    for needed in (
        "emulated",
        "measured",
        "onnxruntime 1.31.1",
        "CPUExecutionProvider",
        "avx512_vnni",
        "prune: not in the",
    ):
        assert needed in words
    assert "No verdict" in "".join(Page(html.render(bare())).text)


def test_reports_say_beside_the_verdict_why_the_scores_may_mean_little() -> None:
    warned = replace(report(), warnings=("test split: top-1 of <33%> is no better than guessing",))
    page = " ".join("".join(Page(html.render(warned)).text).split())
    assert page.index("Careful. test split: top-1 of <33%> is no better than guessing.") < page.index("Ship ")
    assert "- **Careful**: test split: top-1 of \\<33%\\> is" in markdown.render(warned)
    assert "Careful" in markdown.render(replace(bare(), warnings=warned.warnings))


def test_html_charts_have_names_and_tables() -> None:
    page = Page(html.render(report()))
    charts = [attributes for _, attributes in page.tags if attributes.get("role") == "img"]
    # first screen; two devices; threads, steps, sustained, two operator profiles; sizes, sensitivity, confusion, curves
    assert len(charts) == 3 + 4 * 2 + 3 + 2 + 3 + 2
    assert all(chart["aria-label"] for chart in charts)
    assert page.count("table") >= len(charts) - 3
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_html_tells_what_was_done_to_the_network() -> None:
    words = " ".join(" ".join(Page(html.render(report())).text).split())
    for needed in (
        "150,000,000 50 %",  # multiply-adds left
        "Validation top-1 after pruning, before recovery: 41.00 %",
        "hard_swish graph applied measured litert 3.80 → 1.30; onnxruntime 2.00 → 1.50",
        "uint8_activations onnx left out pinned by the recipe",
        "bias_correction 13.8 20.5 95.5 % 97.0 %",
        'range range = "mse" chosen 88.00 % 96.00 % 0.50 — 9',
        "blocks.1.0.conv_dw 26.6 % 11.5 94.0 %",
        "the validation split has 20 images only",
    ):
        assert needed in words
    text = markdown.render(report())
    assert "Pruned by taylor (macs = 0.5): 50% of the multiply-adds and 56% of the parameters are left." in text
    assert '| **range** | range = "mse" | 88.00 % | 96.00 % | 0.50 |' in text


def test_html_escapes_what_comes_from_outside() -> None:
    text = html.render(hostile())
    assert "<script>alert" not in text
    page = Page(text)
    assert page.count("script") == 1
    assert HOSTILE in "".join(page.text)


@pytest.mark.parametrize("n", [2, 10, 13, 40, 41, 102])
def test_html_shows_a_matrix_or_the_most_confused_pairs(n: int) -> None:
    """Class i is taken for its successor i + 1 times out of 200."""
    matrix = tuple(tuple(199 - i if j == i else i + 1 if j == (i + 1) % n else 0 for j in range(n)) for i in range(n))
    names = tuple(f"species number {i}" for i in range(n))
    sample = report()
    rows = (*sample.accuracy[:-1], replace(sample.accuracy[-1], metrics=metrics(matrix, names)))
    text = html.render(replace(sample, accuracy=rows))
    assert len(text) < 500_000
    assert ("heatmap" in str([a.get("class") for t, a in Page(text).tags if t == "svg"])) == (n <= 40)
    assert background.confused(metrics(matrix, names))[0] == (n, n - 1, 0)


def _luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2.2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1])
def test_html_colours_have_enough_contrast(scheme: int) -> None:
    """WCAG 2.2 AA: 4.5 for text, 3 for the parts of a chart."""
    found = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", html.render(bare()))
    light = {name: _luminance(pair[scheme]) for name, *pair in found}
    text = [(ink, back) for ink in ("text", "muted", "accent", "good", "warn", "bad") for back in ("page", "card")]
    text += [("good", "good-soft"), ("warn", "warn-soft"), ("bad", "bad-soft"), ("text", "bad-soft"), ("muted", "sunk")]
    marks = [(ink, "card") for ink in ("fp32", "int8", "fp16", "other", "heat", "series")]
    for need, pairs in ((4.5, [*text, ("on-heat", "heat")]), (3.0, marks)):
        for ink, back in pairs:
            low, high = sorted((light[ink], light[back]))
            assert (high + 0.05) / (low + 0.05) >= need, (ink, back)


@settings(deadline=None, max_examples=40)
@given(st.floats(0.3, 8.0))
def test_html_and_the_verdict_say_the_same_gain(gain: float) -> None:
    """The ratio or the percentage of the reason is the one of "How fast?"; float, if it is the fastest, has none."""
    sample = report()
    rows = (timing("tflite-fp32", "litert", gain), timing("tflite-int8", "litert", 1.0))
    verdict = decide("host", sample.artifacts, sample.accuracy, rows, LimitsSection(), 1.0)
    page = Page(front.verdict(replace(sample, latency=rows, verdict=(verdict,), limits={})))
    words = " ".join("".join(page.text).partition("How fast?")[2].partition("How good?")[0].split())
    said = re.search(r"p50 \S+ ms, ([\d.]+)(x| %) faster", verdict.reason)
    assert said or gain < 1.06 or verdict.artifact == "tflite-fp32"  # what is as fast is chosen by something else
    if said:
        times = (
            f"{said[1]}\N{MULTIPLICATION SIGN} as fast as float" if said[2] == "x" else f"{said[1]} % faster than float"
        )
        assert times in words
    assert verdict.artifact == "tflite-int8" or "float ships" in words


def test_html_and_markdown_warn_where_the_machine_was_busy() -> None:
    busy = "host (load average 2.71 on 2 cores)"
    assert busy in "".join(Page(html.render(one())).text)
    assert f"- **The machine was busy.** {busy}" in markdown.render(one())
    for quiet in (report(), bare(), lost()):
        assert "was busy" not in html.render(quiet) + markdown.render(quiet)


def test_html_shows_the_most_sensitive_layer_with_the_longest_bar() -> None:
    """SQNR 11.5 dB is noise of 26.6 % of the signal (10 ** (-11.5 / 20)), 24 dB is 6.31 %."""
    text = html.render(report())
    chart = text[text.index('aria-label="Most sensitive layers') :]
    longest, second = map(float, re.findall(r'class="bar" style="left:0.00%;width:([\d.]+)%', chart)[:2])
    assert longest == 100.0
    assert second == pytest.approx(100 * 10 ** ((11.5 - 24.0) / 20), abs=0.01)
    assert chart.index("26.6 %") < chart.index("6.31 %")


def test_html_sets_code_as_code_and_groups_operators_by_type() -> None:
    sample = report()
    names = (*(f"HARD_SWISH blocks.{i}.act" for i in range(17)), "MEAN pool")
    files = (*sample.artifacts[:-1], replace(sample.artifacts[-1], float_op_names=names))
    text = html.render(replace(sample, artifacts=files))
    assert "`" not in "".join(Page(text).text)
    assert "<code>fresh = true</code>" in text
    assert ("<dt>HARD_SWISH, 17</dt>" in text, "<dt>MEAN, 1</dt>" in text) == (True, True)


places = st.tuples(st.floats(60, 440), st.floats(30, 260))


@settings(deadline=None, max_examples=40)
@given(st.lists(places, min_size=1, max_size=16), st.floats(4, 9))
def test_marks_of_the_scatter_never_overlap(found: list[tuple[float, float]], radius: float) -> None:
    area = (50.0, 16.0, 446.0, 278.0)
    moved = charts.apart(found, [radius] * len(found), area)
    assert moved[0] == found[0]
    for i, (x, y) in enumerate(moved):
        assert all(math.hypot(x - a, y - b) >= 2 * radius for a, b in moved[:i])
        assert (x, y) == found[i] or (area[0] <= x - radius and x + radius <= area[2] and y + radius <= area[3])


def test_html_leaves_out_curves_without_validation() -> None:
    sample = report()
    assert sample.checkpoint is not None
    history = tuple(replace(epoch, val_loss=None, val_accuracy=None) for epoch in sample.checkpoint.history)
    page = Page(html.render(replace(sample, checkpoint=replace(sample.checkpoint, history=history))))
    classes = {attributes.get("class") for _, attributes in page.tags}
    assert "curve train" in classes
    assert "curve val" not in classes


# helpers


def test_pareto_keeps_what_nothing_beats() -> None:
    points = [charts.Point(name, ms, top1, "", "") for name, ms, top1 in (("a", 1, 0.8), ("b", 2, 0.7), ("c", 3, 0.9))]
    assert [p.label for p in charts.pareto([*points, charts.Point("d", 3, 0.85, "", "")])] == ["a", "c"]


@given(st.lists(st.floats(0.5, 8.0), min_size=1, max_size=200))
def test_histogram_agrees_with_numpy(samples: list[float]) -> None:
    edges = 0.5 * (8.0 / 0.5) ** (np.arange(65) / 64)
    edges[-1] = np.inf
    found = _plots.histogram(samples, 0.5, 8.0)
    assert sum(found) == len(samples)
    near = any(abs(s - e) < 1e-9 for s in samples for e in edges[1:-1])
    assert near or found == np.histogram(samples, edges)[0].tolist()


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_inside_even_and_few(low: float, span: float) -> None:
    found = svg.ticks(low, low + span)
    assert 1 <= len(found) <= 12
    slack = 1e-6 * max(abs(low), span)
    assert all(low - slack <= tick <= low + span + slack for tick in found)
    steps = [b - a for a, b in pairwise(found)]
    assert all(step == pytest.approx(steps[0], rel=1e-3) for step in steps)


@given(st.text())
def test_tag_keeps_text_as_text(words: str) -> None:
    clean = words.replace("\r", "").replace("\0", "")
    page = Page(markup.tag("p", clean, title=clean))
    assert "".join(page.text) == clean
    assert page.tags == [("p", {"title": clean})]


scalars = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.text())
tables = st.dictionaries(
    st.text(), scalars | st.lists(scalars) | st.dictionaries(st.text(), scalars, max_size=2), max_size=4
)


@given(st.dictionaries(st.text(), scalars | tables, max_size=4))
def test_toml_reads_back_as_the_same_recipe(recipe: dict[str, Any]) -> None:
    assert tomllib.loads(background.toml(recipe)) == recipe
