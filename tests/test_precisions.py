"""fp16, weight-only, dynamic and int16x8 files: their weights, their outputs, and what happens where one cannot be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from ai_edge_litert.tools import flatbuffer_utils
from onnx import numpy_helper
from PIL import Image
from torch import nn

from edgekit.config.recipe import ExportSection, Recipe, VerifySection
from edgekit.config.toml import validate
from edgekit.console import Console
from edgekit.errors import InputError, Shortfall
from edgekit.export import sources
from edgekit.export.formats import onnx as to_onnx
from edgekit.export.formats import tflite as to_tflite
from edgekit.pipeline import run as pipeline
from edgekit.runtime.engines import litert
from edgekit.runtime.engines import onnxruntime as ort
from edgekit.scores import Accuracy
from edgekit.types import FLOAT_VARIANTS, Artifact
from edgekit.verify import files as verify
from tests import nets

Array = npt.NDArray[Any]
IDS = [f"{f}-{p}" for p in FLOAT_VARIANTS for f in ("onnx", "tflite")] + ["tflite-int16x8"]
INT8, INT16, INT64 = 9, 7, 4
"""In TFLite's schema."""


@dataclass(frozen=True)
class Made:
    module: nn.Module
    folder: Path
    references: dict[str, Any]
    artifacts: dict[str, Artifact]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A net with dense, depthwise and grouped convolutions, a gate, hard-swish and hard-sigmoid; one dead channel."""
    module = nets.settled(
        nn.Sequential(
            nets.conv(3, 8, 3, nn.ReLU6, stride=2),
            nets.Block(8, nn.Hardswish, nn.Hardsigmoid),
            nets.conv(8, 16, 3, nn.ReLU, stride=2, groups=2),
            nets.head(16),
        )
    )
    with torch.no_grad():
        module.get_submodule("0.conv").weight[3] = 0  # type: ignore[operator]
    folder = tmp_path_factory.mktemp("precisions")
    references: dict[str, Any] = {}
    artifacts = []
    for precision in FLOAT_VARIANTS:
        source = sources.rounded(module, nets.SIZE, precision)
        references[precision] = sources.reference(module, nets.SIZE, precision)
        artifacts += [exporter.export(source, nets.SIZE, precision, folder) for exporter in (to_onnx, to_tflite)]
    graph = sources.int16x8(module, nets.SIZE, nets.images(8, seed=1)).module()
    references["int16x8"] = graph
    artifacts.append(to_tflite.export(graph, nets.SIZE, "int16x8", folder))
    return Made(module, folder, references, {artifact.id: artifact for artifact in artifacts})


def infer(made: Made, id_: str, images: torch.Tensor) -> Array:
    artifact = made.artifacts[id_]
    session = (ort if artifact.format == "onnx" else litert).load(str(made.folder / artifact.path))
    return np.concatenate([verify._infer(artifact, session, image.unsqueeze(0).numpy()) for image in images])


def folded(module: nn.Module) -> list[Array]:
    """Weights with batch norm folded in, by hand, in the order of the network."""
    found: list[Array] = []
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            found.append(part.weight.detach().double().numpy())
        elif isinstance(part, nn.BatchNorm2d):
            assert part.running_var is not None
            factor = part.weight.detach().double() / torch.sqrt(part.running_var.double() + part.eps)
            found[-1] = found[-1] * factor.view(-1, 1, 1, 1).numpy()
    return found


def onnx_weights(path: Path, dtype: Any) -> list[Array]:
    arrays = [numpy_helper.to_array(tensor) for tensor in onnx.load(str(path)).graph.initializer]
    return [array for array in arrays if array.dtype == dtype and array.ndim > 1]


def tflite_weights(path: Path, dtype: Any) -> Iterator[tuple[Array, Array]]:
    """int8 or half constants in torch's layout, and their scales."""
    model: Any = flatbuffer_utils.read_model(str(path))
    producers = {int(each.outputs[0]): each for each in model.subgraphs[0].operators}
    for operator in model.subgraphs[0].operators:
        kind = flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex)
        order = {"CONV_2D": (0, 3, 1, 2), "DEPTHWISE_CONV_2D": (3, 0, 1, 2), "FULLY_CONNECTED": (0, 1)}.get(str(kind))
        if order is not None:
            source = producers.get(int(operator.inputs[1]))
            tensor = model.subgraphs[0].tensors[source.inputs[0] if source else operator.inputs[1]]
            data = np.frombuffer(bytes(model.buffers[tensor.buffer].data), dtype).reshape(tensor.shape)
            scales = tensor.quantization.scale if tensor.quantization is not None else None
            yield data.transpose(order), np.array([] if scales is None else scales)


def as_set(arrays: list[Array]) -> list[tuple[tuple[int, ...], bytes]]:
    """For comparison in any order; a linear layer's weight may be stored either way round."""
    flat = [array if array.ndim > 2 or array.shape[0] < array.shape[1] else array.T for array in arrays]
    return sorted((array.shape, np.ascontiguousarray(array).tobytes()) for array in flat)


# --- weights


def test_half_weights_are_the_folded_weights_rounded_in_both_formats(made: Made) -> None:
    expected = [weight.astype(np.float32) for weight in folded(made.module)]
    for found in (
        onnx_weights(made.folder / "model-fp16.onnx", np.float16),
        [weight for weight, _ in tflite_weights(made.folder / "model-fp16.tflite", np.float16)],
    ):
        assert len(found) == len(expected)
        for weight in expected:
            assert any(w.shape == weight.shape and np.allclose(w, weight, rtol=1e-3, atol=1e-7) for w in found)


@pytest.mark.parametrize("precision", ["weight_only", "dynamic"])
def test_int8_weights_are_the_same_integers_in_both_formats(made: Made, precision: str) -> None:
    expected = []
    for weight in folded(made.module):
        largest = np.abs(weight).reshape(len(weight), -1).max(1)
        scales = np.where(largest > 0, largest, 1) / 127
        expected.append(np.rint(weight / scales.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.int8))
    ours = onnx_weights(made.folder / f"model-{precision}.onnx", np.int8)
    theirs = [weight for weight, _ in tflite_weights(made.folder / f"model-{precision}.tflite", np.int8)]
    assert as_set(ours) == as_set(theirs)
    for weight in expected:  # batch norm folded in double may round another way here and there
        near = [w for w in theirs if w.shape == weight.shape and np.abs(w.astype(int) - weight).max() <= 1]
        assert near


def test_dynamic_leaves_grouped_convolutions_in_float(made: Made) -> None:
    kinds = [node.op_type for node in onnx.load(str(made.folder / "model-dynamic.onnx")).graph.node]
    assert (kinds.count("Conv"), kinds.count("ConvInteger"), kinds.count("MatMulInteger")) == (2, 5, 1)
    model: Any = flatbuffer_utils.read_model(str(made.folder / "model-dynamic.tflite"))
    graph = model.subgraphs[0]
    found = []
    for operator in graph.operators:
        kind = flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex)
        if kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            source, weight = (graph.tensors[operator.inputs[place]] for place in (0, 1))
            dense = kind == "FULLY_CONNECTED" or (kind == "CONV_2D" and source.shape[3] == weight.shape[3])
            assert (weight.type == INT8) == dense
            found.append(dense)
    assert (found.count(True), found.count(False)) == (6, 2)


def test_int16x8_has_symmetric_activations_and_wide_biases(made: Made) -> None:
    model: Any = flatbuffer_utils.read_model(str(made.folder / "model-int16x8.tflite"))
    graph = model.subgraphs[0]
    for operator in graph.operators:
        kind = flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex)
        assert graph.tensors[operator.outputs[0]].type == INT16
        if kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            assert [graph.tensors[place].type for place in operator.inputs] == [INT16, INT8, INT64]
    grids = [t.quantization for t in graph.tensors if t.type == INT16]
    assert grids
    assert all(list(grid.zeroPoint) == [0] for grid in grids)
    assert made.artifacts["tflite-int16x8"].float_ops == 0


# --- outputs


@pytest.mark.parametrize("id_", IDS)
def test_file_computes_what_torch_computes(made: Made, id_: str) -> None:
    precision = id_.partition("-")[2]
    images = nets.images(12, seed=3)
    expected, exact = (nets.run(each, images).numpy() for each in (made.references[precision], made.module))
    got = infer(made, id_, images)
    largest = np.abs(exact).max()
    assert np.abs(got - expected).max() < {"dynamic": 0.03, "int16x8": 5e-4}.get(precision, 2e-6) * largest
    assert np.abs(got - exact).max() < {"fp16": 2e-3}.get(precision, 0.05) * largest
    assert made.artifacts[id_].output.dtype == ("int16" if precision == "int16x8" else "float32")


def test_int16_activations_cost_next_to_nothing(made: Made) -> None:
    """Against float activations with the same weights; what is left is clipping to the calibrated ranges."""
    images = nets.images(8, seed=1)
    same_weights = nets.run(made.references["weight_only"], images).numpy()
    error = np.abs(infer(made, "tflite-int16x8", images) - same_weights).max()
    assert error < 2e-3 * np.abs(same_weights).max()


def test_dynamic_reference_quantizes_each_image_by_its_own_range() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(48, 4, bias=False)).eval()
    image = nets.images(1, seed=5, size=4)
    x = image.double().flatten().numpy()
    step = (max(x.max(), 0) - min(x.min(), 0)) / 255
    zero = np.rint(-min(x.min(), 0) / step)
    weight = module.get_parameter("1.weight").detach().double().numpy()
    scales = np.abs(weight).max(1, keepdims=True) / 127
    expected = (np.rint(weight / scales) * scales) @ ((np.clip(np.rint(x / step) + zero, 0, 255) - zero) * step)
    got = nets.run(sources.reference(module, 4, "dynamic"), image).numpy()[0]
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_files_are_as_small_as_their_weights(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * nets.SIZE**2, 64)).eval()
    sizes = {}
    for precision in ("fp32", "fp16", "weight_only"):
        source = module if precision == "fp32" else sources.rounded(module, nets.SIZE, precision)
        sizes[precision] = to_onnx.export(source, nets.SIZE, precision, tmp_path).bytes
    assert sizes["fp16"] < 0.51 * sizes["fp32"]
    assert sizes["weight_only"] < 0.27 * sizes["fp32"]


# --- verification holds each to its own reference


def test_bounds_are_those_of_the_precision_where_it_has_some() -> None:
    section = VerifySection()
    loose = verify.Reference("torch-dynamic", nn.Identity(), None, *sources.BOUNDS["dynamic"])
    strict = verify.Reference("torch-fp16", nn.Identity())
    assert verify._bound(loose, "tolerance", section) == (0.1, "the tolerance of dynamic")
    assert verify._bound(strict, "tolerance", section) == (1e-3, "verify.tolerance")
    assert verify._bound(strict, "agreement", section) == (0.995, "verify.agreement")


# --- through the pipeline

NETS = """
import torch
from torch import nn

class Determinant(nn.Module):
    def forward(self, x):
        return torch.linalg.det(x)

def small(num_classes):
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(8, num_classes))

def odd(num_classes):
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Determinant(), nn.Linear(8, num_classes))
"""


def run(folder: Path, net: str, export: dict[str, Any], last: str) -> pipeline.Outcome:
    (folder / "net.py").write_text(NETS)
    random = np.random.default_rng(0)
    for label in ("a", "b"):
        (folder / "images" / label).mkdir(parents=True, exist_ok=True)
        for number in range(12):
            pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / label / f"{number}.png")
    recipe = Recipe.model_validate(
        {
            "name": "odd",
            "model": {"name": f"net.py:{net}", "weights": "none"},
            "data": {"source": "image_folder", "path": "images", "input": 16, "val": 0, "test": 0.25},
            "export": export,
            "verify": {},
        }
    )
    job = pipeline.Job(recipe, folder, folder / "run", {})
    return pipeline.run(job, Console(quiet=True), last)


def test_pipeline_verifies_every_precision_and_says_which_file_cannot_be(tmp_path: Path) -> None:
    precisions = ["fp32", "fp16", "weight_only", "dynamic", "int16x8"]
    torch.manual_seed(0)
    outcome = run(tmp_path, "small", {"precisions": precisions}, "verify")
    rows = json.loads((tmp_path / "run" / "7-verify" / "accuracy.json").read_text())
    files = {row["artifact"]: row for row in rows if row["engine"] != "torch"}
    assert set(files) == {f"{f}-{p}" for f in ("onnx", "tflite") for p in precisions} - {"onnx-int16x8"}
    assert {row["artifact"] for row in rows if row["engine"] == "torch"} == {f"torch-{p}" for p in precisions}
    assert all(row["passed"] and row["agreement_reference"] > 0.99 for row in files.values())
    reason = next(stage.reason for stage in outcome.stages if stage.name == "export")
    assert reason.startswith("without onnx-int16x8: ONNX Runtime has no integer kernels for int16")


def test_pipeline_stops_or_skips_where_a_converter_refuses(tmp_path: Path) -> None:
    with pytest.raises(Shortfall, match=r'^tflite-fp32: .*linalg_det.*export.on_failure = "skip"') as caught:
        run(tmp_path, "odd", {"precisions": ["fp32"]}, "export")
    assert "\n" not in str(caught.value)
    outcome = run(tmp_path, "odd", {"precisions": ["fp32"], "on_failure": "skip"}, "export")
    made = json.loads((tmp_path / "run" / "6-export" / "artifacts.json").read_text())
    assert [one["id"] for one in made] == ["onnx-fp32"]
    (skipped,) = json.loads((tmp_path / "run" / "6-export" / "skipped.json").read_text())
    assert skipped["artifact"] == "tflite-fp32"
    assert "linalg_det" in skipped["reason"]
    reason = next(stage.reason for stage in outcome.stages if stage.name == "export")
    assert reason.startswith("without tflite-fp32: ")
    again = run(tmp_path, "odd", {"precisions": ["fp32"], "on_failure": "skip"}, "export")
    assert "without tflite-fp32" in next(stage.reason for stage in again.stages if stage.name == "export")
    with pytest.raises(Shortfall, match=r"^export: no file was written: tflite-fp32: .*linalg_det"):
        run(tmp_path, "odd", {"formats": ["tflite"], "precisions": ["fp32"], "on_failure": "skip"}, "export")


def test_int16x8_needs_tflite(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='"int16x8" needs "tflite"'):
        validate(ExportSection, {"formats": ["onnx"], "precisions": ["int16x8"]}, Path("a.toml"))
    with pytest.raises(Shortfall, match=r"^onnx-int16x8: ONNX Runtime has no"):
        to_onnx.export(nets.head(3), nets.SIZE, "int16x8", tmp_path)


def test_accuracy_rows_of_other_precisions_have_no_steps() -> None:
    reference = verify.Reference("torch-fp16", nn.Identity())
    logits = np.array([[1.0, 2.0], [3.0, 1.0]], np.float32)
    row = Accuracy("onnx-fp16", "onnxruntime", "1", "host", "test", 2, 1.0, 1.0)
    judged = verify._judge(row, logits * np.float32(1.01), logits, reference, VerifySection())
    assert (judged.max_steps, judged.within_one_step, judged.passed) == (None, None, False)
    assert judged.problem.startswith("outputs differ from torch-fp16 by 1.0e-02 of the largest logit")
