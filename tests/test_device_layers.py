"""A layer that a device computes otherwise is named: one with wrong weights, planted on the way there."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from edgekit.device.file import Device
from edgekit.disk import json_file
from edgekit.graph.tflite_table import Table
from edgekit.profile import _prefixes, accuracy
from edgekit.reach.ways import local, ssh
from edgekit.report.formats import html
from edgekit.runtime.cut import Graph
from edgekit.types import Artifact, InputSpec
from tests.conftest import TinyRun
from tests.report_sample import report
from tests.sshd import Board, board, boards
from tests.test_profile import QUIET

__all__ = ["board", "boards"]
SIZE = 16
LAYERS = ("features.0.0", "features.2.conv.2", "classifier.1")


@pytest.fixture
def images() -> accuracy.TestImages:
    pixels = np.random.default_rng(0).integers(0, 256, (12, SIZE, SIZE, 3), np.uint8)
    labels = np.zeros(12, np.int64)
    return accuracy.TestImages("test", pixels, labels, labels, InputSpec(SIZE, (0.5,) * 3, (0.5,) * 3))


def artifact(run: Path, name: str) -> Artifact:
    found = json_file.load(run / "6-export" / "artifacts.json", list[Artifact])
    return next(each for each in found if each.id == name)


def weights(path: Path, layer: str) -> bytes:
    """Those of a layer, as they lie in the file."""
    if path.suffix == ".onnx":
        model = onnx.load(path)
        made = {output: node for node in model.graph.node for output in node.output}
        held = {tensor.name: tensor for tensor in model.graph.initializer}
        node = next(n for n in model.graph.node if n.name.startswith(f"{layer}/") and n.op_type in ("Conv", "Gemm"))
        name = node.input[1]
        return bytes(numpy_helper.to_array(held[name if name in held else made[name].input[0]]).tobytes())
    table = Table(path.read_bytes())
    for operator in table.graph.operators:
        name = table.graph.tensors[operator.outputs[0]].name.decode()
        if name.startswith(f"{layer}/") and table.kind(operator) in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            return bytes(table.model.buffers[table.graph.tensors[operator.inputs[1]].buffer].data)
    raise AssertionError(layer)


def planting(monkeypatch: pytest.MonkeyPatch, reach: Any, wrong: bytes, folder: Path) -> list[str]:
    """A device that computes with other weights in one layer, in whatever file they are. The files that it was sent."""
    send: Callable[[Path, Device], str] = reach.send
    sent: list[str] = []
    turned = bytes(byte ^ 0x5A for byte in wrong) if len(wrong) % 4 else (-np.frombuffer(wrong, np.int8)).tobytes()

    def fake(file: Path, device: Device) -> str:
        if device.name == "host" or file.suffix == ".npy":
            return send(file, device)
        data = file.read_bytes()
        copy = folder / f"{len(sent)}{file.suffix}"
        copy.write_bytes(data.replace(wrong, turned))
        sent.append(file.name)
        return send(copy, device)

    monkeypatch.setattr(reach, "send", fake)
    return sent


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(("name", "engine"), [("tflite-int8", "litert"), ("onnx-int8", "onnxruntime")])
def test_the_layer_with_wrong_weights_is_named(
    tiny: TinyRun, images: accuracy.TestImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    layer: str, name: str, engine: str,
) -> None:  # fmt: skip
    given = artifact(tiny.path, name)
    folder = tiny.path / "6-export"
    sent = planting(monkeypatch, local, weights(folder / given.path, layer), tmp_path)
    provider = {"litert": "XNNPACK", "onnxruntime": "cpu"}[engine]
    device = Device.model_validate({"name": "pi", "run": {"engines": [engine], "providers": {engine: provider}}})
    (row,), failures = accuracy.score([given], folder, {"pi": device}, images, 0.995, QUIET)
    assert failures == []
    assert row.diverges is not None
    assert row.diverges.startswith(f"{layer} (max ")
    assert "% of its outputs)" in row.diverges
    assert len(sent) <= 8  # bisection, not every layer


def test_of_a_float_file_over_ssh(
    board: Board, tiny: TinyRun, images: accuracy.TestImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = artifact(tiny.path, "onnx-fp32")
    folder = tiny.path / "6-export"
    wrong = weights(folder / given.path, "features.2.conv.2")
    planting(monkeypatch, ssh, wrong, tmp_path)
    (row,), _ = accuracy.score([given], folder, {"pi": board.device("pi")}, images, 0.995, QUIET)
    assert not row.passed
    assert str(row.diverges).startswith("features.2.conv.2 (max ")


def test_kernels_that_round_otherwise(tiny: TinyRun, images: accuracy.TestImages) -> None:
    """LiteRT's own kernels round twice where XNNPACK rounds once."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 4, 4, 3), np.uint8)
    smooth = noise.repeat(SIZE // 4, 1).repeat(SIZE // 4, 2)
    many = replace(images, pixels=smooth, labels=np.zeros(64, np.int64), exact=np.zeros(64, np.int64))
    device = Device.model_validate({"name": "pi", "run": {"engines": ["litert"], "providers": {"litert": "builtin"}}})
    given = artifact(tiny.path, "tflite-int8")
    (row,), _ = accuracy.score([given], tiny.path / "6-export", {"pi": device}, many, 0.0, QUIET)
    assert row.passed
    assert row.max_steps
    assert str(row.diverges) in html.render(replace(report(), accuracy=(row,)))
    assert re.search(r"from [\w.]+ \(max 1 step, [\d.]+ % of its outputs\) on they round diff", str(row.diverges))


def test_a_part_that_cannot_be_run_there(
    tiny: TinyRun, images: accuracy.TestImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, folder = artifact(tiny.path, "tflite-int8"), tiny.path / "6-export"
    planting(monkeypatch, local, weights(folder / given.path, LAYERS[0]), tmp_path)
    monkeypatch.setattr(Graph, "cut", lambda *_, **__: b"nothing that runs")
    device = Device.model_validate({"name": "pi", "run": {"engines": ["litert"], "providers": {"litert": "cpu"}}})
    (row,), _ = accuracy.score([given], folder, {"pi": device}, images, 0.995, QUIET)
    assert str(row.diverges).startswith("not found: a part of the file cannot be run: ")
    assert "\n" not in str(row.diverges)


@given(st.lists(st.booleans(), max_size=40))
def test_bisection_finds_a_place_before_which_they_agree(differs: list[bool]) -> None:
    found = _prefixes._bisect(len(differs), differs.__getitem__)
    if found is None:
        assert not differs or not differs[-1]
    else:
        assert differs[found]
        assert found == 0 or not differs[found - 1]
        if sorted(differs) == differs:
            assert found == differs.index(True)
