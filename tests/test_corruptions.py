"""Corrupted images, and what files lose on them: against definitions, exact tests and real engines."""

from __future__ import annotations

import colorsys
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.stats import binomtest

from edgekit import choices
from edgekit.config.recipe import Recipe, VerifySection
from edgekit.console import Console
from edgekit.disk import json_file
from edgekit.report import robustness as shown
from edgekit.report.formats import html, markdown
from edgekit.scores import Robustness
from edgekit.types import TORCH_FP32, InputSpec, Sample
from edgekit.verdict import intervals
from edgekit.verify import robustness
from edgekit.verify.corruptions import blur, brightness, contrast, jpeg, noise
from edgekit.verify.port import LARGE, LEVELS, SMALL, Pixels, severity
from tests import nets, support
from tests.report_sample import report

NAMES = ("blur", "brightness", "contrast", "jpeg", "noise")


def picture(channels: int = 3, height: int = 48, width: int = 64) -> Pixels:
    draw = np.random.default_rng(0)
    coarse = draw.integers(0, 256, (6, 8, channels), np.uint8)
    layers = [Image.fromarray(coarse[..., layer]).resize((width, height)) for layer in range(channels)]
    return np.stack([np.asarray(layer) for layer in layers], axis=2)


def test_the_menu() -> None:
    assert choices.names("edgekit.verify.corruptions") == NAMES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_level_is_worse_than_the_one_before(name: str, channels: int) -> None:
    pixels = picture(channels)
    before = pixels.copy()
    worse = [robustness.corrupted(pixels, name, level, (0, 5)) for level in LEVELS]
    colours = 3 if channels > 2 else 1
    away = [float(np.abs(each[..., :colours].astype(float) - pixels[..., :colours]).mean()) for each in worse]
    assert 0 < away[0] < away[1] < away[2]
    assert all(each.dtype == np.uint8 and each.shape == pixels.shape for each in worse)
    assert all((each[..., colours:] == pixels[..., colours:]).all() for each in worse)
    assert (pixels == before).all()
    again = [robustness.corrupted(pixels, name, level, (0, 5)) for level in LEVELS]
    assert all((one == other).all() for one, other in zip(worse, again, strict=True))
    other = robustness.corrupted(pixels, name, 1, (0, 6))
    assert (other == worse[0]).all() == (name != "noise")


@pytest.mark.parametrize("level", LEVELS)
def test_corruptions_are_what_they_say(level: int) -> None:
    draw = np.random.default_rng(0)
    flat = np.full((SMALL, 3000, 3), 128, np.uint8)
    spread = float((noise.apply(flat, level, draw).astype(float) / 255).std())
    assert spread == pytest.approx(noise.SIGMA[0][level - 1], rel=0.02)
    pixels = picture(3, LARGE, LARGE)
    sigma = blur.SIGMA[1][level - 1]
    smooth = gaussian_filter(pixels.astype(float), (sigma, sigma, 0), mode="nearest")
    assert np.abs(blur.apply(pixels, level, draw) - smooth).mean() < 1.0
    flatter = contrast.apply(pixels, level, draw)
    kept = flatter.astype(float).std((0, 1)) / pixels.astype(float).std((0, 1))
    assert kept == pytest.approx(contrast.KEPT[1][level - 1], rel=0.05)
    lit = brightness.apply(pixels, level, draw)
    for y, x in ((0, 0), (20, 30), (147, 163)):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixels[y, x] / 255))
        expected = colorsys.hsv_to_rgb(hue, saturation, min(value + brightness.ADDED[1][level - 1], 1))
        assert lit[y, x] / 255 == pytest.approx(expected, abs=0.5 / 255 + 1e-9)
    black = brightness.apply(np.zeros((SMALL, SMALL, 3), np.uint8), level, draw)
    assert (black == round(255 * brightness.ADDED[0][level - 1])).all()
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=int(jpeg.QUALITY[1][level - 1]))
    assert (jpeg.apply(pixels, level, draw) == np.asarray(Image.open(stream))).all()


@given(lost=st.integers(0, 12), won=st.integers(0, 12), same=st.integers(40, 400))
@settings(max_examples=40)
def test_more_is_said_only_where_mcnemar_nearly_says_so(lost: int, won: int, same: int) -> None:
    """The exact test is known to be conservative: a p just above 5 % may be below it here, never one above 13 %."""
    found = intervals.difference(np.array([1] * lost + [-1] * won + [0] * same, np.int8), 0.05)
    assert found.low <= found.points <= found.high or abs(found.points) < 0.5
    assert found.points == pytest.approx(100 * (lost - won) / (lost + won + same))
    p = binomtest(lost, lost + won).pvalue if lost + won else 1.0
    if found.low > 0 or found.high < 0:
        assert p < 0.13
    if p < 0.01:
        assert (found.low > 0) == (lost > won)


def test_intervals_cover_what_they_should() -> None:
    """300 images, of which 4 % are lost and 4 % are won: the truth, 0, is outside in about 5 % of the cases."""
    draw = np.random.default_rng(1)
    found = [
        intervals.difference(draw.choice(np.array([1, -1, 0], np.int8), 300, p=[0.04, 0.04, 0.92]), 0.05)
        for _ in range(200)
    ]
    outside = sum(each.low > 0 or each.high < 0 for each in found)
    assert outside <= 18  # with 5 %, more than that in one of a hundred such tests


def test_severities_are_those_of_both_data_sets_and_between_them() -> None:
    known = (0.4, 0.7, 1.0), (1.0, 3.0, 6.0)
    sizes = (8, SMALL, 84, 85, LARGE, 500)
    found = [severity(known, 3, np.zeros((side, 2 * side, 3), np.uint8)) for side in sizes]
    assert found[:2] == pytest.approx([1.0, 1.0])
    assert found[-2:] == pytest.approx([6.0, 6.0])
    assert found[2] < 6**0.5 < found[3]  # half-way between 32 and 224, as ratios go, is 84.7


def test_records_of_other_recipes_stay_as_they_were() -> None:
    assert "corruptions" not in VerifySection().model_dump()
    section = VerifySection(corruptions=["blur"])
    assert VerifySection.model_validate(section.model_dump(mode="json")) == section
    raw: dict[str, Any] = {"model": {"name": "x"}, "data": {"source": "digits"}, "verify": {"corruptions": ["blurr"]}}
    with pytest.raises(ValueError, match='"blurr": no such choice; did you mean "blur"'):
        Recipe.model_validate(raw)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> list[Robustness]:
    """A real net, exported and run in both engines; the labels are what it says of clean images."""
    made = nets.compressed(tmp_path_factory)
    folder = tmp_path_factory.mktemp("pictures")
    tensors = nets.images(24, 7)
    best = nets.run(made.module, tensors).argmax(1)
    samples = []
    for place, (image, label) in enumerate(zip(tensors, best, strict=True)):
        pixels = np.rint((image.numpy() * 0.5 + 0.5) * 255).astype(np.uint8).transpose(1, 2, 0)
        Image.fromarray(pixels).save(folder / f"{place}.png")
        samples.append(Sample(f"{place}.png", int(label), "test", ""))
    spec = InputSpec(nets.SIZE, (0.5,) * 3, (0.5,) * 3)
    files = list(made.artifacts.values())
    return robustness.score(
        samples, folder, "test", spec, made.module, files, made.folder, ["blur", "noise"], 0, Console(quiet=True)
    )


def test_scores_of_a_real_net(scored: list[Robustness]) -> None:
    exact, *files = scored
    assert (exact.artifact, exact.clean, exact.images, exact.excess) == (TORCH_FP32, 1.0, 24, None)
    assert {row.artifact for row in files} >= {"onnx-int8", "tflite-int8"}
    assert not any("fp32" in row.artifact for row in files)
    conditions = [(name, level) for name in ("blur", "noise") for level in LEVELS]
    for row in scored:
        assert [(each.corruption, each.level) for each in row.worse] == conditions
    assert exact.worse[-1].top1 < 1
    for row in files:
        for each, own in zip(row.worse, exact.worse, strict=True):
            assert each.excess is not None
            assert each.excess.points == pytest.approx(100 * ((row.clean - each.top1) - (1 - own.top1)))
        assert row.excess is not None
        mean = np.mean([each.excess.points for each in row.worse if each.excess])
        assert row.excess.points == pytest.approx(mean)
    both = {row.artifact: [each.top1 for each in row.worse] for row in files}
    assert both["onnx-int8"] == both["tflite-int8"]  # the same integers


def test_a_file_that_loses_more_is_named() -> None:
    exact = np.ones((2, 200), np.int8)
    own = exact.copy()
    own[1, :30] = 0
    worse, over = robustness._compared(own, exact, [("blur", 1)])
    assert over is not None
    assert (over.points, over.low > 0) == (15.0, True)
    row = Robustness("tflite-int8", "litert", "test", 200, 1.0, worse, over)
    assert shown.answer(row).startswith("tflite-int8: loses 15.00 points more than float on corrupted images (+")
    assert shown.answer(row).endswith("; more on blur (slight)")
    same, none = robustness._compared(exact, exact, [("blur", 1)])
    alike = shown.answer(Robustness("onnx-int8", "onnxruntime", "test", 200, 1.0, same, none))
    assert "as robust as float, as far as these images can tell" in alike


def test_reports_show_them(scored: list[Robustness]) -> None:
    from dataclasses import replace

    plain = report()
    assert "Corrupted images" not in html.render(plain) + markdown.render(plain)
    full = replace(plain, robustness=tuple(scored))
    page, text = html.render(full), markdown.render(full)
    assert 'id="robustness"' in page
    assert "Points lost beyond what float loses" in page
    assert "| blur | slight |" in text
    assert [line for line in text.split("\n") if line.startswith("- onnx-int8: ")] == [
        f"- {shown.answer(row)}" for row in scored if row.artifact == "onnx-int8"
    ]


def test_the_stage_writes_them_when_asked(copied: Path) -> None:
    """The shipped digits recipe, cut down: nothing of the kind before, and after --set one file more."""
    (verified,) = copied.glob("*-verify")
    assert not (verified / "robustness.json").exists()
    shutil.rmtree(copied / "10-report")
    asked = ("--set", 'verify.corruptions=["contrast"]', "--set", "verify.images=60")
    support.edgekit("compress", copied, *asked, "--quiet")
    rows = json_file.load(verified / "robustness.json", list[Robustness])
    assert [row.artifact for row in rows] == [TORCH_FP32, "onnx-int8", "tflite-int8"]
    assert {row.images for row in rows} == {60}
