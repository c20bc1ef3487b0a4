from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from edgekit.export import sources
from edgekit.export.formats import tflite
from edgekit.graph.names import layer as layer_of
from edgekit.graph.tflite_table import Table
from edgekit.runtime import engine_menu
from edgekit.types import HOST_ENGINES
from edgekit.verify import diverge_float
from edgekit.verify import files as verify
from tests import nets

LAYERS = ("silu.depthwise.conv", "silu.expand.conv", "swish.project.conv", "head.3")
"""A depthwise, two pointwise and a linear layer."""


@pytest.fixture
def copied(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> nets.Compressed:
    """Files to be spoilt."""
    made = nets.compressed(tmp_path_factory)
    shutil.copytree(made.folder, tmp_path, dirs_exist_ok=True)
    return replace(made, folder=tmp_path)


def found(made: nets.Compressed, name: str, module: nn.Module | None = None, tolerance: float = 1e-3) -> str:
    artifact = made.artifacts[name]
    path = made.folder / artifact.path
    session = engine_menu.engine(HOST_ENGINES[artifact.format]).load(str(path))
    pixels = nets.images(1, seed=5)
    fed = verify.feed(artifact, session, pixels.numpy())
    return diverge_float.first(artifact.format, path, module or made.module, pixels, fed, tolerance)


def spoil_onnx(path: Path, layer: str) -> None:
    model = onnx.load(path)
    (node,) = (n for n in model.graph.node if n.op_type in diverge_float.WEIGHTED and layer_of(n.name) == layer)
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
    weight.CopyFrom(numpy_helper.from_array(spoilt(numpy_helper.to_array(weight)), weight.name))
    onnx.save(model, path)


def spoil_tflite(path: Path, layer: str) -> None:
    table = Table(path.read_bytes())
    names = {each: layer_of(table.graph.tensors[each.outputs[0]].name.decode()) for each in table.graph.operators}
    (operator,) = (o for o, name in names.items() if name == layer and table.kind(o) in diverge_float.WEIGHTED)
    buffer = table.model.buffers[table.graph.tensors[operator.inputs[1]].buffer]
    buffer.data = spoilt(np.asarray(buffer.data, np.uint8).tobytes())
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(table.model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))


def spoilt(weight: Any) -> Any:
    """The largest weight with the other sign."""
    values = np.frombuffer(weight, np.float32).copy() if isinstance(weight, bytes) else weight.copy()
    values.flat[int(np.abs(values).argmax())] *= -1
    return values.view(np.uint8) if isinstance(weight, bytes) else values


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(("name", "spoil"), [("onnx-fp32", spoil_onnx), ("tflite-fp32", spoil_tflite)])
def test_first_names_the_spoilt_layer(copied: nets.Compressed, name: str, spoil: Any, layer: str) -> None:
    spoil(copied.folder / copied.artifacts[name].path, layer)
    said = found(copied, name)
    assert said.startswith(f"{layer} (max ")
    assert said.endswith(" of the largest)")


@pytest.mark.parametrize("name", ["onnx-fp32", "tflite-fp32"])
def test_first_blames_nothing_in_a_good_file(copied: nets.Compressed, name: str) -> None:
    assert found(copied, name) == "none: the weighted layers agree; something after the last one differs"


def test_first_names_a_layer_of_a_file_with_16_bit_activations(copied: nets.Compressed) -> None:
    program = sources.int16x8(copied.module, nets.SIZE, list(nets.images(4)))
    artifact = tflite.export(program.module(), nets.SIZE, "int16x8", copied.folder, [])
    made = replace(copied, artifacts={artifact.id: artifact})
    graph = program.module()
    assert found(made, artifact.id, graph, tolerance=0.02).startswith("none: the weighted layers agree")
    other = program.module()
    with torch.no_grad():
        for name, weight in other.named_parameters():
            if "swish" in name and "project" in name and weight.ndim == 4:
                weight.mul_(-1)
    assert "swish.project" in found(made, artifact.id, other, tolerance=0.02)


def test_first_says_so_of_a_file_that_cannot_be_read(copied: nets.Compressed) -> None:
    path = copied.folder / copied.artifacts["onnx-fp32"].path
    said = diverge_float.first("onnx", path, copied.module, nets.images(1), np.zeros((1, 9), np.float32), 1e-3)
    assert said.startswith("none: the file's inner tensors cannot be read: ")
