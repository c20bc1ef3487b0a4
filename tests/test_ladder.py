from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save as to_bytes

from edgekit import models
from edgekit.config import recipe_file
from edgekit.config.recipe import QuantizeSection
from edgekit.console import Console
from edgekit.errors import Shortfall
from edgekit.graph import exported_program, integer_arithmetic
from edgekit.graph.kernels import float_layers
from edgekit.pipeline import run as pipeline
from edgekit.quantize import ptq
from edgekit.search import ladder
from tests import digits
from tests.digits import Digits

FACTOR = 512.0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    return digits.digits(tmp_path_factory)


@pytest.fixture
def material(data: Digits, tmp_path: Path) -> ladder.Material:
    """A network whose activations plain ranges cannot hold."""
    return ladder.Material(
        module=digits.spoiled(data.module, FACTOR),
        size=digits.SIZE,
        images=data.images(),
        pixels=digits.PIXELS,
        train=data.train,
        val=data.val,
        rewrites=None,
        formats=[],
        folder=tmp_path,
        console=Console(quiet=True),
    )


def section(rescue: Sequence[str], **settings: Any) -> QuantizeSection:
    return QuantizeSection.model_validate({"rescue": list(rescue), "sensitivity": False, **settings})


def names(climb: ladder.Climb) -> list[str]:
    return [rung.name for rung in climb.rungs]


def test_climb_stays_on_the_ground_where_plain_quantization_holds(material: ladder.Material, data: Digits) -> None:
    climb = ladder.climb(replace(material, module=data.module), section(["range", "qat"]))
    assert names(climb) == ["plain"]
    (rung,) = climb.rungs
    assert rung.holds
    assert rung.chosen
    assert rung.settings == ""
    assert rung.accuracy == pytest.approx(
        digits.accuracy(integer_arithmetic.integer_graph(climb.result.program.module()), data.val)
    )
    assert climb.shortfall == ""
    assert "270 validation images" in climb.note


def test_climb_stops_at_the_first_rung_that_holds(material: ladder.Material, data: Digits) -> None:
    climb = ladder.climb(material, section(["corrections", "rounding", "qat"]))
    assert names(climb) == ["plain", "corrections"]
    plain, last = climb.rungs
    exact = digits.accuracy(material.module, data.val)
    assert plain.drop is not None
    assert last.drop is not None
    assert plain.accuracy == pytest.approx(exact - plain.drop / 100)
    assert plain.drop > 5 > 1 >= last.drop
    assert [rung.holds for rung in climb.rungs] == [rung.chosen for rung in climb.rungs] == [False, True]
    assert tomllib.loads(last.settings) == {"equalize": True}
    assert climb.section.equalize
    got = digits.accuracy(integer_arithmetic.integer_graph(climb.result.program.module()), data.val)
    assert last.accuracy == pytest.approx(got)
    assert climb.shortfall == ""


def test_a_rung_starts_from_what_helped_and_settings_reproduce_it(material: ladder.Material) -> None:
    climb = ladder.climb(material, section(["range", "corrections"], max_drop=0.0))
    by_name = {rung.settings: rung for rung in climb.rungs}
    helped = max((rung for rung in climb.rungs if rung.name == "range"), key=lambda rung: rung.accuracy or 0)
    last = climb.rungs[-1]
    assert last.name == "corrections"
    assert tomllib.loads(last.settings) == {**tomllib.loads(helped.settings), "equalize": True}
    assert len(by_name) == len(climb.rungs)


def test_keep_float_leaves_the_worst_layers_in_float_and_times_what_that_costs(
    material: ladder.Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranking = ladder._Workshop.ranking

    def weighted(workshop: Any, settings: Any) -> Any:  # layers that leave no other operator float
        return tuple(row for row in ranking(workshop, settings) if row.layer.startswith(("stem", "depthwise")))

    monkeypatch.setattr(ladder._Workshop, "ranking", weighted)
    monkeypatch.setattr(ladder, "KEPT", (2,))
    climb = ladder.climb(replace(material, formats=["onnx"]), section(["keep_float"]))
    kept = [tomllib.loads(rung.settings)["keep_float"] for rung in climb.rungs[1:]]
    assert [len(layers) for layers in kept] == list(ladder.KEPT[: len(kept)])
    assert {"stem.conv", "depthwise.conv"} & set(kept[0] + kept[-1])
    assert climb.rungs[-1].holds
    assert sorted(float_layers(climb.result.program.module())) == sorted(kept[-1])
    plain, last = climb.rungs[0], climb.rungs[-1]
    assert set(plain.latency_ms) == set(last.latency_ms) == {"onnx on onnxruntime"}
    assert all(ms > 0 for rung in (plain, last) for ms in rung.latency_ms.values())
    assert plain.latency_of == last.latency_of == ""


def test_a_rung_that_a_converter_refuses_is_not_taken(
    material: ladder.Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(one: Any, material: Any, place: int) -> Any:
        raise Shortfall("tflite-int8: the converter refuses this network")

    monkeypatch.setattr(ladder, "_export", refuses)
    monkeypatch.setattr(ladder, "KEPT", (6,))
    climb = ladder.climb(replace(material, formats=["tflite"]), section(["keep_float"]))
    good = [rung for rung in climb.rungs if not rung.problem]
    assert [rung.name for rung in good] == ["plain"] == [rung.name for rung in climb.rungs if rung.chosen]
    assert all("converter refuses" in rung.problem and not rung.holds for rung in climb.rungs[1:])
    assert "latency not measured" in climb.note
    assert climb.shortfall


def test_a_rung_whose_files_compute_something_else_is_not_taken(
    material: ladder.Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of the rung are those of min-max ranges, which this network does not stand."""
    export, plain = ladder._export, ladder._Workshop(material).make(section(["keep_float"]))

    def others(one: Any, material: Any, place: int) -> Any:
        return export(replace(one, result=plain), material, place)

    monkeypatch.setattr(ladder, "_export", others)
    monkeypatch.setattr(ladder, "KEPT", (6,))
    climb = ladder.climb(replace(material, formats=["onnx"]), section(["keep_float"]))
    assert [rung.name for rung in climb.rungs if rung.chosen] == ["plain"]
    assert "outputs differ from torch-int8" in climb.rungs[-1].problem
    assert climb.shortfall


def test_climb_without_validation_split_says_that_nothing_was_judged(material: ladder.Material) -> None:
    climb = ladder.climb(replace(material, val=None), section(["range", "qat"]))
    assert climb.rungs == ()
    assert "no validation split" in climb.note
    assert climb.shortfall == ""


def test_an_empty_rescue_judges_nothing(material: ladder.Material) -> None:
    climb = ladder.climb(material, section([]))
    assert climb.rungs == ()
    assert "quantize.rescue is empty" in climb.note


def test_a_rung_that_fails_is_written_down_and_the_climb_goes_on(
    material: ladder.Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide = ptq.decide

    def fails(observed: Any, chosen: QuantizeSection) -> Any:
        if chosen.range == "mse":
            raise Shortfall("quantize: the disk of this test is made of cheese")
        return decide(observed, chosen)

    monkeypatch.setattr(ptq, "decide", fails)
    monkeypatch.setattr(ladder, "RANGES", ("mse",))
    climb = ladder.climb(material, section(["range", "corrections"]))
    failed = climb.rungs[1]
    assert (failed.settings, failed.accuracy, failed.holds) == ('range = "mse"', None, False)
    assert "cheese" in failed.problem
    assert climb.rungs[-1].chosen


RECIPE = """
[model]
name    = "net.py:Small"
weights = "small.safetensors"
[data]
source = "digits"
input  = {size}
[quantize]
calibration = 32
max_drop    = 0.5
rescue      = ["range"]
"""


def test_run_ends_where_no_rung_holds_and_keeps_the_best_one(data: Digits, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("from tests.digits import Small\n")
    (tmp_path / "mine.toml").write_text(RECIPE.format(size=digits.SIZE))
    module = digits.spoiled(data.module, FACTOR)
    (tmp_path / "small.safetensors").write_bytes(to_bytes(models.state(module)))
    loaded = recipe_file.load(tmp_path / "mine.toml")
    job = pipeline.Job(loaded, tmp_path, tmp_path / "run", {})
    with pytest.raises(Shortfall) as caught:
        pipeline.run(job, Console(quiet=True), "quantize")
    message = str(caught.value)
    assert caught.value.exit_code == 1
    assert "quantize.max_drop allows 0.5" in message
    assert "hurts most" in message
    assert 'add "qat" to quantize.rescue' in message
    failed = tmp_path / "run" / "5-quantize.failed"
    assert str(failed) in message
    assert not (tmp_path / "run" / "5-quantize").exists()
    record = json.loads((failed / "quantization.json").read_text())
    kept = [rung for rung in record["rungs"] if rung["chosen"]]
    assert [rung["accuracy"] for rung in kept] == [max(rung["accuracy"] for rung in record["rungs"])]
    assert f"{kept[0]['drop']:.2f} points" in message
    graph = integer_arithmetic.integer_graph(exported_program.load(failed / "quantized.pt2"))
    assert digits.accuracy(graph, data.val) == pytest.approx(kept[0]["accuracy"])
    assert record["sensitivity"][0]["layer"] in message
    assert sum(path.is_dir() for path in failed.iterdir()) == 0
