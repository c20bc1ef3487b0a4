"""`quantize.activations = "symmetric"`: zero points of 0 everywhere, the same integers in every engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import nn

from edgekit import choices
from edgekit.config.recipe import QuantizeSection, Recipe
from edgekit.console import Console
from edgekit.data.dataset import ImageSet
from edgekit.graph import integer_arithmetic
from edgekit.graph.ops import QUANTIZE
from edgekit.quantize import ptq
from edgekit.quantize.histogram import Histogram, grid
from edgekit.quantize.ranges import entropy, minmax, mse, percentile
from edgekit.report.compression import symmetry
from edgekit.search import ladder, trial_files
from edgekit.train import qat
from edgekit.types import Quantization, Symmetry
from edgekit.verify import files as verify
from tests import digits, nets

CHOSEN = QuantizeSection(activations="symmetric")
RULES = (minmax.limits, percentile.limits, mse.limits, entropy.limits)
ends = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)


def free(low: float, high: float) -> float:
    raise AssertionError("this rule looks at the histogram alone")


def seen(values: torch.Tensor, qscheme: torch.qscheme = torch.per_tensor_symmetric) -> Histogram:
    histogram = Histogram(qscheme=qscheme)
    histogram(values)
    return histogram


@given(ends, ends)
@settings(max_examples=60, deadline=None)
def test_a_symmetric_grid_covers_what_an_affine_one_covers(one: float, other: float) -> None:
    low, high = min(one, other), max(one, other)
    scale, zero = grid(low, high, symmetric=True)
    affine, affine_zero = grid(low, high)
    assert zero == 0
    assert scale >= affine * (1 - 1e-6)
    assert 127 * scale >= (127 - affine_zero) * affine - affine
    assert -127 * scale <= (-128 - affine_zero) * affine + affine


@pytest.mark.parametrize(("low", "high", "scale"), [(-2.54, 1.0, 0.02), (0.0, 6.35, 0.05), (0.0, 0.0, 1 / 127)])
def test_scales_by_hand(low: float, high: float, scale: float) -> None:
    found, zero = grid(low, high, symmetric=True)
    assert found == pytest.approx(scale)
    assert zero == 0
    scales, zeros = seen(torch.tensor([low, high])).calculate_qparams()
    assert float(scales) == pytest.approx(scale)
    assert int(zeros) == 0


@given(st.lists(ends, min_size=1, max_size=30))
@settings(max_examples=40, deadline=None)
def test_a_mirrored_histogram_is_as_if_the_negatives_had_been_seen(values: list[float]) -> None:
    histogram = seen(torch.tensor(values, dtype=torch.float32))
    both = histogram.mirrored()
    assert both.high == -both.low == max(map(abs, np.array(values, np.float32)))
    exponent = int(both.place[1])
    zeros = int(sum(0 <= value < 2.0**exponent for value in np.array(values, np.float32)))
    assert int(both.counts.sum()) == 2 * len(values) - zeros
    centres, _ = both.filled()
    for value in np.array(values, np.float32):
        assert float((centres.abs() - abs(value)).abs().min()) <= 2.0**exponent


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_gives_a_range_that_is_best_for_a_symmetric_grid(rule: Callable[..., Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(20_000, generator=generator).relu()
    found = rule(seen(values).mirrored(), free)
    assert found.low == pytest.approx(-found.high, rel=0.05)

    def error(low: float, high: float) -> float:
        scale = max(-low, high) / 127
        return float(((values / scale).round().clamp(-128, 127) * scale - values).square().mean())

    if rule is mse.limits:  # half of the grid is left for these values, so that clipping pays off earlier
        affine = rule(seen(values, torch.per_tensor_affine), free)
        assert error(found.low, found.high) <= error(affine.low, affine.high) * (1 + 1e-9)


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> nets.Compressed:
    gates = nets.Gate(8, nn.Sigmoid), nets.Gate(8, nn.Hardsigmoid)
    module = nets.settled(
        nn.Sequential(nets.conv(3, 8, 3, nn.Hardswish, 2), *gates, nets.conv(8, 8, 3, nn.ReLU6, 2), nets.head(8))
    )
    result = ptq.quantize(module, nets.SIZE, nets.images(8, seed=1), nets.LEVELS, CHOSEN)
    graph, folder = result.program.module(), tmp_path_factory.mktemp("symmetric")
    artifacts = {}
    for form in ("onnx", "tflite"):
        made = choices.pick("edgekit.export.formats", form, "").export(graph, nets.SIZE, "int8", folder)
        artifacts[made.id] = made
    return nets.Compressed(module, graph, folder, artifacts)


def test_the_onnx_file_has_zero_points_of_0_and_int8_everywhere(compressed: nets.Compressed) -> None:
    model = onnx.load(compressed.folder / "model-int8.onnx")
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    grids = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(grids) > 30
    for node in grids:
        zero = constants[node.input[2]]
        assert zero.dtype == np.int8
        assert not zero.any()
    assert not any(constant.dtype in (np.uint8, np.int32) for constant in constants.values())
    producer = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:  # nothing computes on the bytes: TensorRT has them between Q and DQ only
        sources = [producer[name].op_type for name in node.input if name in producer]
        assert node.op_type == "DequantizeLinear" or "QuantizeLinear" not in sources


def test_files_for_timing_run_the_kernels_of_symmetric_files(tmp_path: Path) -> None:
    net = nets.settled(nn.Sequential(nets.conv(3, 8, 3, nn.ReLU), nets.head(8)))
    section = QuantizeSection(activations="symmetric")
    files = trial_files.quick_int8(net, nets.SIZE, list(nets.images(2)), nets.LEVELS, section, ["onnx"], tmp_path)
    model = onnx.load(tmp_path / files["onnx"].path)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    zeros = [constants[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert zeros
    assert all(zero.dtype == np.int8 and not zero.any() for zero in zeros)


def test_the_tflite_file_has_the_same_scales(compressed: nets.Compressed) -> None:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(compressed.folder / "model-int8.tflite"))
    interpreter.allocate_tensors()
    rows = [row for row in interpreter.get_tensor_details() if row["dtype"] == np.int8]
    assert not any(row["quantization_parameters"]["zero_points"].any() for row in rows)
    found = {float(row["quantization"][0]) for row in rows if row["quantization"][0]}
    model = onnx.load(compressed.folder / "model-int8.onnx")
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    scales = {float(constants[node.input[1]]) for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert scales <= found


@pytest.mark.parametrize("form", ["onnx", "tflite"])
def test_engines_compute_the_integers_that_torch_computes(compressed: nets.Compressed, form: str) -> None:
    artifact = compressed.artifacts[f"{form}-int8"]
    assert artifact.float_ops == 0
    assert "uint8_activations" not in artifact.lowered
    images = nets.images(12, seed=5)
    wanted = nets.run(integer_arithmetic.integer_graph(compressed.graph), images).numpy()
    session = verify._open(artifact, compressed.folder)
    got = np.concatenate([verify._infer(artifact, session, image.unsqueeze(0).numpy()) for image in images])
    session.close()
    np.testing.assert_array_equal(got, wanted)


def test_a_relu_keeps_its_upper_half(compressed: nets.Compressed) -> None:
    """A network's own ranges by hand: conv, relu, with min-max."""
    module = nets.settled(nets.Net(lambda net, x: net.conv(x).relu(), conv=nn.Conv2d(3, 4, 3)))
    images = nets.images(4, seed=1)
    graph = ptq.quantize(module, nets.SIZE, images, nets.LEVELS, CHOSEN).program.module()
    first, last = (node.args[1:5] for node in graph.graph.nodes if node.target is QUANTIZE)
    with torch.no_grad():
        largest = float(torch.cat([module(image.unsqueeze(0)) for image in images]).max())
    assert first == (pytest.approx(1 / 127, rel=0.011), 0, -128, 127)  # moved away from ties by a percent at most
    assert last == (pytest.approx(largest / 127, rel=0.001), 0, -128, 127)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> digits.Digits:
    return digits.digits(tmp_path_factory)


def test_trained_graphs_are_symmetric_too(data: digits.Digits) -> None:
    samples = data.index.split("train")[::20]
    few = ImageSet(replace(data.index, samples=samples), data.root, "train", digits.SPEC)
    chosen = CHOSEN.model_copy(
        update={"method": "qat", "qat": CHOSEN.qat.model_copy(update={"epochs": 1, "batch_norm": "frozen"})}
    )
    start = ptq.quantize(data.module, digits.SIZE, data.images(16), digits.PIXELS, CHOSEN).program.module()
    result = qat.train(
        data.module, digits.SIZE, start, few, None, digits.PIXELS, chosen, Console(quiet=True)
    ).program.module()
    before, after = ([n.args[1:5] for n in graph.graph.nodes if n.target is QUANTIZE] for graph in (start, result))
    assert {grid[1:] for grid in after} == {(0, -128, 127)}
    assert len(before) == len(after)
    assert all(0.5 < ours[0] / theirs[0] < 2 for ours, theirs in zip(after, before, strict=True))


def test_the_cost_is_scored_beside_affine_on_the_same_images(data: digits.Digits, tmp_path: Path) -> None:
    val = ImageSet(replace(data.index, samples=data.index.split("val")[::9]), data.root, "val", digits.SPEC)
    material = ladder.Material(
        module=data.module,
        size=digits.SIZE,
        images=data.images(16),
        pixels=digits.PIXELS,
        train=data.train,
        val=val,
        rewrites=None,
        formats=[],
        folder=tmp_path,
        console=Console(quiet=True),
    )
    chosen = CHOSEN.model_copy(update={"sensitivity": False})
    climb = ladder.climb(material, chosen)
    cost = climb.symmetry
    assert cost is not None
    assert cost.images == f"{len(val)} validation images"
    affine = ptq.quantize(data.module, digits.SIZE, data.images(16), digits.PIXELS, QuantizeSection())
    graphs = [integer_arithmetic.integer_graph(each.program.module()) for each in (affine, climb.result)]
    assert cost.accuracy == tuple(digits.accuracy(graph, val) for graph in graphs)
    assert (climb.rungs[0].accuracy, climb.rungs[0].agreement) == (cost.accuracy[1], cost.agreement[1])
    assert ladder._judge(replace(material, val=None)).said == "16 calibration images"


def test_the_ladder_keeps_no_layer_in_float() -> None:
    workshop: Any = None  # which would rank the layers
    assert not list(ladder._settings("keep_float", CHOSEN, [ladder._Tried("plain", CHOSEN, None)], workshop))


def test_the_cost_is_a_sentence_of_the_report() -> None:
    made = Quantization(8, "", {}, 0, symmetry=Symmetry("50 validation images", (0.92, 0.9), (0.98, 0.96)))
    assert symmetry(made) == (
        "Symmetric activations: top-1 90.00 %, 2.00 points below affine ones (92.00 %); agree with fp32 96.00 %, "
        "affine ones 98.00 %; both in torch's integer arithmetic, on the same 50 validation images."
    )
    assert symmetry(replace(made, symmetry=None)) == ""


def test_float_layers_and_uint8_are_refused() -> None:
    with pytest.raises(ValueError, match=r'keep_float = \["head"\] is not allowed with activations = "symmetric"'):
        QuantizeSection(activations="symmetric", keep_float=["head"])
    recipe = {
        "model": {"name": "x"},
        "data": {"source": "image_folder"},
        "quantize": {"activations": "symmetric"},
        "lower": {"rewrites": ["uint8_activations"]},
    }
    with pytest.raises(ValueError, match="uint8_activations"):
        Recipe.model_validate(recipe)


def test_records_of_affine_runs_stay_as_they_were() -> None:
    assert "activations" not in json.loads(QuantizeSection().model_dump_json())
    assert QuantizeSection.model_validate(CHOSEN.model_dump()) == CHOSEN
