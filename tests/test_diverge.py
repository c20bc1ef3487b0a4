from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from torch.fx import GraphModule

from edgekit.graph import integer_arithmetic
from edgekit.graph.kernels import kernels
from edgekit.graph.tflite_table import Table
from edgekit.runtime import engine_menu
from edgekit.types import HOST_ENGINES
from edgekit.verify import diverge_int8
from edgekit.verify import files as verify
from tests import nets
from tests.support import edgekit

LAYERS = ("silu.depthwise.conv", "silu.expand.conv", "swish.project.conv", "head.3")
"""A depthwise, two pointwise and a linear layer; none with inputs that are always zero."""


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> nets.Compressed:
    return nets.compressed(tmp_path_factory)


@pytest.fixture
def copied(every: nets.Compressed, tmp_path: Path) -> nets.Compressed:
    """The same files, to be spoilt."""
    shutil.copytree(every.folder, tmp_path, dirs_exist_ok=True)
    return replace(every, folder=tmp_path)


@pytest.fixture(scope="module")
def integer(every: nets.Compressed) -> GraphModule:
    return integer_arithmetic.integer_graph(every.graph)


def found(made: nets.Compressed, graph: GraphModule, kind: str, seed: int = 5) -> str:
    """What `diverge` says of one of the files."""
    artifact = made.artifacts[f"{kind}-int8"]
    session = engine_menu.engine(HOST_ENGINES[kind]).load(str(made.folder / artifact.path))
    pixels = nets.images(1, seed)
    image = diverge_int8.Image(pixels, verify.feed(artifact, session, pixels.numpy()))
    return diverge_int8.first(kind, made.folder / artifact.path, graph, image)


# --- faults in ONNX files


class Onnx:
    """A file to spoil; `layer` is a module of the network."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = onnx.load(path)
        self.constants = {tensor.name: tensor for tensor in self.model.graph.initializer}

    def node(self, layer: str) -> onnx.NodeProto:
        weighted = [n for n in self.model.graph.node if n.op_type in ("Conv", "Gemm")]
        (node,) = (n for n in weighted if f"'{layer}'" in n.metadata_props[0].value)
        return node

    def producer(self, name: str) -> onnx.NodeProto:
        return next(n for n in self.model.graph.node if name in n.output)

    def sink(self, layer: str) -> onnx.NodeProto:
        name = self.node(layer).output[0]
        node = next(n for n in self.model.graph.node if name in n.input)
        return (
            node
            if node.op_type == "QuantizeLinear"
            else next(n for n in self.model.graph.node if node.output[0] in n.input)
        )

    def change(self, node: onnx.NodeProto, place: int, by: Callable[[Any], Any]) -> None:
        """Give one node a constant of its own."""
        old = numpy_helper.to_array(self.constants[node.input[place]])
        name = f"{node.name}_spoilt_{place}"
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(by(old.copy()), old.dtype), name))
        node.input[place] = name
        self.path.write_bytes(self.model.SerializeToString())


def flip_largest(weight: Any) -> Any:
    weight.flat[int(np.abs(weight.astype(int)).argmax())] *= -1
    return weight


def onnx_weight(file: Onnx, layer: str) -> None:
    file.change(file.producer(file.node(layer).input[1]), 0, flip_largest)


def onnx_weight_scale(file: Onnx, layer: str) -> None:
    file.change(file.producer(file.node(layer).input[1]), 1, lambda scales: scales * 1.3)


def onnx_scale(file: Onnx, layer: str) -> None:
    file.change(file.sink(layer), 1, lambda scale: scale * 1.01)


def onnx_zero_point(file: Onnx, layer: str) -> None:
    file.change(file.sink(layer), 2, lambda zero: zero + 1 if zero < 128 else zero - 1)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("spoil", [onnx_weight, onnx_weight_scale, onnx_scale, onnx_zero_point])
def test_first_names_the_spoilt_layer_of_an_onnx_file(
    copied: nets.Compressed, integer: GraphModule, layer: str, spoil: Callable[[Onnx, str], None]
) -> None:
    spoil(Onnx(copied.folder / copied.artifacts["onnx-int8"].path), layer)
    said = found(copied, integer, "onnx")
    assert said.startswith(f"{layer} (")
    other_grid = spoil in (onnx_scale, onnx_zero_point)
    assert ("the file says scale" in said) == other_grid
    assert other_grid or said.endswith(" of its outputs)")  # no other layer: those that read it are not to blame


# --- faults in TFLite files


class TFLite:
    """A file to spoil; layers in the order in which they run."""

    def __init__(self, path: Path, order: list[str]) -> None:
        self.path = path
        self.table = Table(path.read_bytes())
        kinds = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
        codes = [max(c.builtinCode, c.deprecatedBuiltinCode) for c in self.table.model.operatorCodes]
        weighted = [o for o in self.table.graph.operators if self.table.operators[codes[o.opcodeIndex]] in kinds]
        self.operators = dict(zip(order, weighted, strict=True))

    def tensor(self, layer: str, place: int) -> Any:
        """Input `place` of a layer; -1 is its output."""
        operator = self.operators[layer]
        return self.table.graph.tensors[operator.outputs[0] if place < 0 else operator.inputs[place]]

    def save(self) -> None:
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(self.table.model.Pack(builder), b"TFL3")
        self.path.write_bytes(bytes(builder.Output()))


def tflite_weight(file: TFLite, layer: str) -> None:
    buffer = file.table.model.buffers[file.tensor(layer, 1).buffer]
    buffer.data = flip_largest(np.array(buffer.data, np.uint8).view(np.int8)).view(np.uint8)


def tflite_bias(file: TFLite, layer: str) -> None:
    buffer = file.table.model.buffers[file.tensor(layer, 2).buffer]
    bias = np.array(buffer.data, np.uint8).view(np.int32)
    scales = [float(file.tensor(layer, place).quantization.scale[0]) for place in (0, 1, -1)]
    bias[0] += np.sign(bias[0]) * -round(3 * scales[2] / (scales[0] * scales[1]))  # three steps of the output
    buffer.data = bias.view(np.uint8)


def tflite_weight_scale(file: TFLite, layer: str) -> None:
    grid = file.tensor(layer, 1).quantization
    grid.scale = np.float32(np.array(grid.scale) * 1.3)
    grid = file.tensor(layer, 2).quantization  # the runtime checks that it is their product
    grid.scale = np.float32(np.array(grid.scale) * 1.3)


def tflite_scale(file: TFLite, layer: str) -> None:
    grid = file.tensor(layer, -1).quantization
    grid.scale = np.float32(np.array(grid.scale) * 1.01)


def tflite_zero_point(file: TFLite, layer: str) -> None:
    grid = file.tensor(layer, -1).quantization
    grid.zeroPoint = np.array([grid.zeroPoint[0] + (1 if grid.zeroPoint[0] < 0 else -1)])


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("spoil", [tflite_weight, tflite_bias, tflite_weight_scale, tflite_scale, tflite_zero_point])
def test_first_names_the_spoilt_layer_of_a_tflite_file(
    copied: nets.Compressed, integer: GraphModule, layer: str, spoil: Callable[[TFLite, str], None]
) -> None:
    order = [diverge_int8._name(kernel.node) for kernel in kernels(copied.graph)]
    file = TFLite(copied.folder / copied.artifacts["tflite-int8"].path, order)
    spoil(file, layer)
    file.save()
    said = found(copied, integer, "tflite")
    assert said.startswith(f"{layer} (")
    assert ("the file says scale" in said) == (spoil in (tflite_scale, tflite_zero_point))


# --- files without one


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_first_names_none_of_a_sound_file(every: nets.Compressed, integer: GraphModule, kind: str) -> None:
    assert found(every, integer, kind).startswith("none: every inner tensor agrees")


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_compare_finds_every_kernel_in_the_file(every: nets.Compressed, integer: GraphModule, kind: str) -> None:
    artifact = every.artifacts[f"{kind}-int8"]
    session = engine_menu.engine(HOST_ENGINES[kind]).load(str(every.folder / artifact.path))
    pixels = nets.images(1, 6)
    image = diverge_int8.Image(pixels, verify.feed(artifact, session, pixels.numpy()))
    rows = diverge_int8.compare(integer, diverge_int8.READERS[kind], every.folder / artifact.path, image)
    names = {row.layer for row in rows}
    assert names >= {diverge_int8._name(kernel.node) for kernel in kernels(every.graph)}
    assert {"the input", "add of swish", "mul of silu.gate", "sigmoid of relu6.gate.gate"} <= names
    assert not any(row.steps or row.grid for row in rows)


def test_first_counts_the_other_layers_and_names_the_first(copied: nets.Compressed, integer: GraphModule) -> None:
    path = copied.folder / copied.artifacts["onnx-int8"].path
    for layer in ("head.3", "swish.project.conv", "down.conv"):
        onnx_weight(Onnx(path), layer)
    said = found(copied, integer, "onnx")
    assert said.startswith("swish.project.conv (max ")
    assert "; 2 more of " in said


def test_first_says_so_where_layers_only_round_otherwise(copied: nets.Compressed, integer: GraphModule) -> None:
    file = Onnx(copied.folder / copied.artifacts["onnx-int8"].path)
    node = file.node("relu6.project.conv")
    scale = float(numpy_helper.to_array(file.constants[file.sink("relu6.project.conv").input[1]]))

    def half_a_step(bias: Any) -> Any:
        bias[3] += scale / 2
        return bias

    file.change(node, 2, half_a_step)
    said = found(copied, integer, "onnx")
    assert said.startswith("none by more than rounding; 1 of ")
    assert " round differently, most of all relu6.project.conv (max 1 step, " in said


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_an_image_on_which_both_agree_tells_which_tensors_belong_together(
    every: nets.Compressed, integer: GraphModule, kind: str
) -> None:
    """Tensors of one grid and size are read in another order, and between others that torch does not have."""
    artifact = every.artifacts[f"{kind}-int8"]
    session = engine_menu.engine(HOST_ENGINES[kind]).load(str(every.folder / artifact.path))
    guide, image = (
        diverge_int8.Image(pixels, verify.feed(artifact, session, pixels.numpy()))
        for pixels in (nets.images(1, 6), nets.images(1, 7))
    )

    def shuffled(path: Path, fed: Any) -> Iterator[diverge_int8.Tensor]:
        tensors = list(diverge_int8.READERS[kind](path, fed))
        noise = [diverge_int8.Tensor(~tensor.values, tensor.grid) for tensor in tensors]
        mixed = [*tensors, *noise]
        random.Random(0).shuffle(mixed)
        yield from mixed

    rows = diverge_int8.compare(integer, shuffled, every.folder / artifact.path, image, guide)
    assert {row.layer for row in rows} >= {diverge_int8._name(kernel.node) for kernel in kernels(every.graph)}
    assert not any(row.steps or row.grid for row in rows)


def test_first_says_so_when_the_file_is_of_another_net(every: nets.Compressed, tmp_path: Path) -> None:
    artifact = every.artifacts["onnx-int8"]
    shutil.copy(every.folder / artifact.path, tmp_path)
    other = integer_arithmetic.integer_graph(
        nets.quantize(nets.settled(torch.nn.Sequential(nets.conv(3, 7), nets.conv(7, 7))))
    )
    pixels = nets.images(1, 5)
    image = diverge_int8.Image(pixels, pixels.numpy())
    said = diverge_int8.first("onnx", tmp_path / artifact.path, other, image)
    assert said == "none: the file's inner tensors do not match those of the quantized graph"
    (tmp_path / artifact.path).write_bytes(b"nothing")
    said = diverge_int8.first("onnx", tmp_path / artifact.path, other, image)
    assert said.startswith("none: the file's inner tensors cannot be read: ")
    assert "\n" not in said


# --- matching


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_match_finds_the_tensors_that_a_file_kept(kept: list[bool], random: Any) -> None:
    grids = [diverge_int8.Grid(0.01 * (1 + place), random.randint(-128, 127)) for place in range(len(kept))]
    nodes: dict[Any, diverge_int8.Tensor] = {
        place: diverge_int8.Tensor(np.zeros((1, 2, 3, 3), np.int8), grid) for place, grid in enumerate(grids)
    }
    theirs = [
        diverge_int8.Tensor(np.zeros((1, 3, 3, 2), np.int8), grid)
        for grid, keep in zip(grids, kept, strict=True)
        if keep
    ]
    matched: dict[Any, diverge_int8.Tensor] = dict(diverge_int8._match(nodes, theirs))
    assert sorted(matched) == [place for place, keep in enumerate(kept) if keep]
    assert all(matched[place].grid == nodes[place].grid for place in matched)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 1000))
def test_laid_out_undoes_channel_last(channels: int, side: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(-128, 128, (1, channels, side, side)).astype(np.int8)
    last = np.ascontiguousarray(values.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(diverge_int8._laid_out(last, values), values)
    np.testing.assert_array_equal(diverge_int8._laid_out(values, values), values)
    pooled = values.max((2, 3))
    np.testing.assert_array_equal(diverge_int8._laid_out(pooled, pooled[..., None, None])[..., 0, 0], pooled)


# --- through the front door


def test_compress_ends_with_the_first_divergent_layer_of_a_spoilt_file(copied_run: Path) -> None:
    folder = copied_run / "6-export"
    file = Onnx(folder / "model-int8.onnx")
    onnx_weight(file, "classifier.1")
    record = json.loads((folder / "stage.json").read_text())
    record["outputs"]["model-int8.onnx"] = hashlib.sha256(file.path.read_bytes()).hexdigest()  # as if just exported
    (folder / "stage.json").write_text(json.dumps(record))
    answer = edgekit("compress", copied_run, code=1)
    assert "verify: onnx-int8 in onnxruntime" in answer.stderr
    assert "; first divergent layer: classifier.1 (max " in answer.stderr
    rows = {row["artifact"]: row for row in json.loads((copied_run / "7-verify.failed" / "accuracy.json").read_text())}
    assert rows["onnx-int8"]["diverges"].startswith("classifier.1 (max ")
    assert rows["tflite-int8"]["diverges"] is None


@pytest.fixture
def copied_run(tiny: Any, tmp_path: Path) -> Path:
    """A copy of the small run of the whole pipeline, to be spoilt."""
    return Path(shutil.copytree(tiny.path, tmp_path / "run"))
