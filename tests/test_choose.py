"""Which rewrites apply: chosen by timing files with and without each, in real engines."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.fx import GraphModule

from edgekit import choices
from edgekit.config import recipe_file
from edgekit.config.recipe import QuantizeSection, Recipe
from edgekit.console import Console
from edgekit.device import file as device_file
from edgekit.device.file import Device
from edgekit.disk import json_file
from edgekit.disk.run_directory import RunDirectory
from edgekit.export.formats import onnx as exporter
from edgekit.export.formats import tflite
from edgekit.lower.port import graph_rewrite
from edgekit.measurements import NOISE
from edgekit.pipeline import run as pipeline
from edgekit.pipeline.port import Skip
from edgekit.pipeline.stages import lower
from edgekit.pipeline.state import Job, Run
from edgekit.quantize import ptq
from edgekit.search import rewrites, trial_files
from edgekit.types import Artifact, Rewrite
from tests import nets
from tests.conftest import TinyRun

aten = torch.ops.aten
QUIET = Console(quiet=True)
HOST = {"host": Device(name="host")}
LITERT = {"pi": Device.model_validate({"name": "pi", "run": {"engines": ["litert"]}})}
CUT = pytest.approx(1 / (1 + NOISE))


def test_every_rewrite_is_offered_where_its_scope_says() -> None:
    offered = {
        "graph": {*(rewrite.NAME for rewrite in ptq.FLOAT_REWRITES), "saturation"},
        "onnx": {rewrite.NAME for rewrite in exporter.REWRITES},
        "tflite": {rewrite.NAME for rewrite in tflite.REWRITES},
    }
    assert {scope: set(rewrites.names(scope)) for scope in offered} == offered
    assert sum(len(names) for names in offered.values()) == len(choices.names("edgekit.lower.rewrites"))


# --- the decision, on made-up times


@pytest.mark.parametrize(
    ("effects", "applied", "words"),
    [
        ({"host": {"litert": (2.0, 1.0)}}, True, "2.00x as fast with it on host (measured: x)"),
        ({"host": {"litert": (1.0, 1.25)}}, False, "left out: 0.80x as fast with it on host (measured: x)"),
        ({"host": {"litert": (1.0, 1.03)}}, False, "left out: 0.97x"),
        ({"host": {"litert": (1.0, 1.015)}}, True, "0.99x as fast with it on host, which may be noise, so it stays"),
        ({"host": {"litert": (1.015, 1.0)}}, True, "1.01x as fast with it on host, which may be noise, so it stays"),
        ({"host": {"litert": (1.03, 1.0)}}, True, "1.03x as fast with it on host (measured: x)"),
        ({"host": {"litert": (4.0, 1.0), "onnxruntime": (1.0, 4.0)}}, True, "1.00x"),
        ({"host": {"litert": (4.0, 1.0), "onnxruntime": (1.0, 1.0)}}, True, "2.00x"),
        ({"host": {"litert": (2.0, 1.0), "onnxruntime": (1.0, 4.0)}}, False, "0.71x"),
    ],
)
def test_a_rewrite_goes_where_it_loses_more_than_chance(effects: Any, applied: bool, words: str) -> None:
    row = rewrites.decide("silu", "graph", effects, "measured: x")
    assert (row.name, row.scope, row.applied, row.device) == ("silu", "graph", applied, "host")
    assert row.ms == effects["host"]
    assert words in row.reason
    assert row.reason.endswith("(measured: x)")


TIMES = st.floats(0.01, 100)


@given(st.lists(st.tuples(TIMES, TIMES), min_size=1, max_size=3))
def test_the_engines_of_a_device_count_alike(pairs: list[tuple[float, float]]) -> None:
    """The product of the ratios decides."""
    gain = math.prod(before / after for before, after in pairs) ** (1 / len(pairs))
    effect = {f"engine {number}": pair for number, pair in enumerate(pairs)}
    assert gain == CUT or rewrites.decide("x", "graph", {"host": effect}).applied == (gain > 1 / (1 + NOISE))


def test_the_first_device_decides_and_the_others_are_recorded() -> None:
    effects = {"pi": {"litert": (1.0, 2.0)}, "host": {"litert": (3.0, 1.0), "onnxruntime": (3.0, 1.0)}}
    row = rewrites.decide("hard_swish", "graph", effects)
    assert not row.applied
    assert row.device == "pi"
    assert "one file serves all devices and the first decides (3.00x on host)" in row.reason
    assert row.ms == {"litert": (1.0, 2.0), "litert on host": (3.0, 1.0), "onnxruntime on host": (3.0, 1.0)}


# --- timing


def chain(path: Path, layers: int) -> Path:
    """An ONNX file of matrix products."""
    weight = np.random.default_rng(0).normal(0, 0.1, (64, 64)).astype(np.float32)
    names = ["x", *(f"h{i}" for i in range(layers - 1)), "y"]
    nodes = [helper.make_node("MatMul", [a, "w"], [b]) for a, b in itertools.pairwise(names)]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64]) for name in "xy"]
    graph = helper.make_graph(nodes, "chain", ports[:1], ports[1:], [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_files_are_timed_in_every_engine_that_runs_them(tmp_path: Path) -> None:
    files = {"long": chain(tmp_path / "a.onnx", 60), "short": chain(tmp_path / "b.onnx", 2)}
    trials = trial_files.time_files(files, {**LITERT, **HOST}, QUIET, seconds=0.1).rows
    assert [(trial.file, trial.device, trial.engine) for trial in trials] == [
        ("long", "host", "onnxruntime"),
        ("short", "host", "onnxruntime"),
    ]
    assert trials[0].ms > 3 * trials[1].ms > 0
    assert trials[0].machine.cores >= 1
    assert trials[0].engine_version


def test_files_that_no_device_runs_are_not_timed(tmp_path: Path) -> None:
    assert trial_files.time_files({"only": chain(tmp_path / "a.onnx", 2)}, LITERT, QUIET) == trial_files.Trials(())


# --- rewrites of a file


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small int8 net as ONNX, before any rewrite."""
    module = nets.settled(
        nn.Sequential(nets.conv(3, 16, activation=nn.ReLU6), nets.conv(16, 16, groups=16), nets.head(16))
    )
    data: bytes = exporter.convert(nets.quantize(module), nets.SIZE, "int8", tmp_path_factory.mktemp("convert"))
    return data


def _slow(model: onnx.ModelProto) -> int:
    """Thirty more convolutions, added to the output with factor zero: a rewrite that only costs time."""
    graph, width = model.graph, 64
    for name, values in {
        "slow_weight": np.full((width, width, 3, 3), 0.01),
        "slow_image": np.full((1, width, 24, 24), 0.5),
        "slow_zero": np.zeros(()),
    }.items():
        graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    output = graph.output[0].name
    last = next(node for node in graph.node if output in node.output)
    last.output[list(last.output).index(output)] = "slow_before"
    graph.node.extend(
        [
            helper.make_node("ReduceMean", [graph.input[0].name], ["slow_mean"]),  # or all of it is computed at load
            helper.make_node("Add", ["slow_image", "slow_mean"], ["slow_0"]),
            *(
                helper.make_node("Conv", [f"slow_{n}", "slow_weight"], [f"slow_{n + 1}"], pads=[1, 1, 1, 1])
                for n in range(30)
            ),
            helper.make_node("ReduceMin", ["slow_30"], ["slow_end"], keepdims=0),
            helper.make_node("Mul", ["slow_end", "slow_zero"], ["slow_none"]),
            helper.make_node("Add", ["slow_before", "slow_none"], [output]),
        ]
    )
    return 1


def test_a_rewrite_of_a_file_that_makes_it_slower_is_left_out(
    converted: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "REWRITES", (*exporter.REWRITES, SimpleNamespace(NAME="slow", apply=_slow)))
    rows = {row.name: row for row in rewrites.choose_file(exporter, converted, "onnx", "int8", HOST, tmp_path, QUIET)}
    assert {"global_average_pool", "slow", "uint8_activations"} <= set(rows)
    assert all((row.scope, row.artifact) == ("onnx", "onnx-int8") for row in rows.values())
    assert rows["global_average_pool"].applied
    assert rows["global_average_pool"].reason == "needed: without it 1 operator would compute in float"
    slow = rows["slow"]
    assert not slow.applied
    without, with_ = slow.ms["onnxruntime"]
    assert with_ > 1.5 * without > 0
    assert slow.reason.startswith("left out: 0.")
    assert "(measured: onnxruntime " in slow.reason
    assert slow.reason.endswith(", 1 thread)")
    assert set(rows["uint8_activations"].ms) == {"onnxruntime"}


def test_a_rewrite_is_applied_unmeasured_where_no_device_runs_the_format(converted: bytes, tmp_path: Path) -> None:
    rows = rewrites.choose_file(exporter, converted, "onnx", "int8", LITERT, tmp_path, QUIET)
    assert {row.name for row in rows} == set(exporter.lowered(converted)[1])
    assert {(row.applied, row.reason) for row in rows} == {(True, "not measured: no device runs onnx files")}


# --- rewrites of the graph


def chosen(net: nn.Module, formats: list[str], folder: Path) -> list[Rewrite]:
    images = list(nets.images(2))
    section = QuantizeSection()
    return rewrites.choose_graph(net, nets.SIZE, images, nets.LEVELS, section, formats, HOST, folder, QUIET)


def _slow_graph(graph: GraphModule) -> int:
    """Thirty average pools of one pixel in front of the pooling: they change nothing, but take their time."""
    pool = next(node for node in graph.graph.nodes if node.target is aten.adaptive_avg_pool2d.default)
    source = last = pool.args[0]
    with graph.graph.inserting_before(pool):
        for _ in range(30):
            last = graph.graph.call_function(aten.avg_pool2d.default, (last, [1, 1], [1, 1]))
            last.meta.update(source.meta)
    pool.replace_input_with(source, last)
    graph.recompile()
    return 1


def test_rewrites_of_the_graph_are_needed_or_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SimpleNamespace(
        NAME="slow", SCOPE="graph", NEEDED="", apply=_slow_graph, matches=lambda _: 1, matters=lambda _: True
    )
    names = rewrites.names
    monkeypatch.setattr(rewrites, "names", lambda scope: [*names(scope), "slow"])
    monkeypatch.setattr(rewrites, "graph_rewrite", lambda name: slow if name == "slow" else graph_rewrite(name))
    monkeypatch.setattr(ptq, "FLOAT_REWRITES", (*ptq.FLOAT_REWRITES, slow))
    net = nets.Net(
        lambda net, x: net.head(torch.nn.functional.hardswish(net.stem(x))),
        stem=nets.conv(3, 16),
        head=nets.head(16),
    )
    found = {row.name: row for row in chosen(nets.settled(net), ["onnx"], tmp_path)}
    assert found["hard_swish"].applied
    assert found["hard_swish"].reason == "needed: without it 1 operator of onnx-int8 would compute in float"
    assert [(found[name].applied, found[name].reason) for name in ("hard_sigmoid", "silu")] == [
        (False, "not found in this network")
    ] * 2
    without, with_ = found["slow"].ms["onnxruntime"]
    assert with_ > 1.3 * without
    assert not found["slow"].applied
    without, with_ = found["saturation"].ms["onnxruntime"]
    assert found["saturation"].applied == (without / with_ > 1 / (1 + NOISE))


def test_a_clamp_that_a_convolution_applies_for_free_is_not_timed(tmp_path: Path) -> None:
    net = nets.settled(nn.Sequential(nets.conv(3, 8, activation=nn.ReLU6), nets.head(8)))
    rows = chosen(net, ["onnx", "tflite"], tmp_path)
    assert {row.name: (row.applied, row.reason) for row in rows}["saturation"] == (
        True,
        "changes no kernel of this network, so it was not timed",
    )
    assert list(tmp_path.iterdir()) == []


# --- the stages


def a_run(folder: Path, devices: dict[str, Device], **section: Any) -> Run:
    made = Recipe.model_validate(
        {"model": {"name": "x"}, "data": {"source": "digits"}, "lower": section, "quantize": {}, "export": {}}
    )
    return Run(Job(made, folder, folder, devices), RunDirectory(folder), QUIET)


@pytest.mark.parametrize(
    ("devices", "section", "reason"),
    [
        (HOST, {}, ""),
        ({}, {}, "not measured: no device was given, so every rewrite is applied"),
        (HOST, {"measure": False}, "not measured: lower.measure is false, so every rewrite is applied"),
        (HOST, {"rewrites": ["silu"]}, "the recipe pins the rewrites"),
    ],
)
def test_the_stage_is_skipped_where_there_is_nothing_to_measure(
    tmp_path: Path, devices: dict[str, Device], section: Any, reason: str
) -> None:
    run = a_run(tmp_path, devices, **section)
    found = lower.section(run)
    assert (found.reason if isinstance(found, Skip) else "") == reason
    assert bool(lower.where(run)) == (not reason)


def test_pinned_rewrites_are_applied_as_they_are_and_the_others_are_not(tmp_path: Path, converted: bytes) -> None:
    run = a_run(tmp_path, HOST, rewrites=["uint8_activations", "silu"])
    assert lower.allowed(run) == ["silu", "uint8_activations"]
    rows: list[Rewrite] = []
    assert lower.for_file(run, exporter, "onnx", "int8", tmp_path, rows)(converted) == ["uint8_activations"]
    assert {row.name for row in rows} == set(exporter.lowered(converted)[1])
    assert {row.name for row in rows if row.applied} == {"uint8_activations"}
    assert {row.reason for row in rows} == {"the recipe pins the rewrites"}


@pytest.mark.parametrize(("device", "allowed"), [(None, None), ("host", ["hard_swish", "silu"])])
def test_what_was_found_wanting_may_not_change_the_graph(
    tmp_path: Path, device: str | None, allowed: list[str] | None
) -> None:
    """A rewrite that was not found in the network stays allowed, so that the graph is quantized the same way."""
    rows = [
        Rewrite("hard_swish", "graph", True, "measured", "host", {"litert": (2.0, 1.0)}),
        Rewrite("saturation", "graph", False, "measured or not found", device),
        Rewrite("silu", "graph", False, "not found in this network"),
    ]
    run = a_run(tmp_path, HOST)
    run.done["lower"] = run.directory.stage("lower", {}, lambda work: json_file.save(work / "rewrites.json", rows))
    assert lower.allowed(run) == allowed


def test_a_run_with_a_device_records_what_it_chose_once(copied: Path, tiny: TinyRun) -> None:
    loaded, base = recipe_file.resume(copied / "recipe.json", ["lower.measure=true", 'export.formats=["onnx"]'])
    job = pipeline.Job(loaded, base, copied, {"quick": device_file.load(tiny.device)})
    states = {row.name: row.cached for row in pipeline.run(job, QUIET, last="export").stages if not row.skipped}
    assert states == {
        "data": True,
        "train": True,
        "lower": False,
        "quantize": False,
        "export": False,
    }  # the ladder tries formats
    graph = json_file.load(copied / "4-lower" / "rewrites.json", list[Rewrite])
    assert [row.name for row in graph] == rewrites.names("graph")
    files = json_file.load(copied / "6-export" / "rewrites.json", list[Rewrite])
    for artifact in json_file.load(copied / "6-export" / "artifacts.json", list[Artifact]):
        about = [row for row in files if row.artifact == artifact.id]
        assert set(artifact.lowered) == {row.name for row in about if row.applied}
        assert all(row.device == "quick" or row.reason.startswith("needed") for row in about)
    assert any("measured: onnxruntime " in row.reason for row in files)
    again = pipeline.run(job, QUIET, last="export").stages
    assert all(row.cached or row.skipped for row in again)
