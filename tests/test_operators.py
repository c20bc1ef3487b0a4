"""Per-operator profiles: a slow layer that was planted is found, under its name in torch, on both engines."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
import pytest
from ai_edge_litert import interpreter as litert
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgekit.errors import Shortfall
from edgekit.export.formats import onnx as to_onnx
from edgekit.export.formats import tflite as to_tflite
from edgekit.graph import names
from edgekit.measurements import OperatorProfile, OperatorRow
from edgekit.profile import operators
from edgekit.runtime import trace
from edgekit.runtime.cut import Graph
from tests import nets

ENGINES = {"onnxruntime": "onnx", "litert": "tflite"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fp32 and int8 files of a net whose layer `slow` has fifty times the multiply-adds of the others."""
    folder = tmp_path_factory.mktemp("planted")
    parts = {
        "stem": nets.conv(3, 16, 3, nn.Hardswish),
        "block": nets.Block(16, nn.Hardswish, nn.Hardsigmoid),
        "slow": nn.Conv2d(16, 96, 7, padding=3),
        "last": nets.conv(96, 8, 1, nn.ReLU6),
        "head": nets.head(8),
    }
    module = nets.settled(nets.Net(lambda net, x: net.head(net.last(net.slow(net.block(net.stem(x))))), **parts))
    graph = nets.quantize(module)
    for exporter in (to_onnx, to_tflite):
        exporter.export(module, nets.SIZE, "fp32", folder)
        exporter.export(graph, nets.SIZE, "int8", folder)
    return folder


@pytest.fixture(scope="module")
def profiles(folder: Path) -> dict[tuple[str, str], OperatorProfile]:
    return {
        (engine, precision): operators.profile_operators(
            folder / f"model-{precision}.{form}", f"{form}-{precision}", engine, seconds=0.6
        )
        for engine, form in ENGINES.items()
        for precision in ("fp32", "int8")
    }


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_slow_layer_that_was_planted_is_the_hottest(
    engine: str, precision: str, profiles: dict[tuple[str, str], OperatorProfile]
) -> None:
    profile = profiles[engine, precision]
    (hottest,) = operators.hottest(profile, 1)
    assert (hottest.layer, operators.family(hottest.op)) == ("slow", "convolutions")
    assert hottest.share > 0.3
    assert sum(row.ms for row in profile.rows) <= profile.total_ms * 1.001
    assert all(row.ms >= 0 and row.share == row.ms / profile.total_ms for row in profile.rows)
    assert profile.raw_ms > 0
    assert next(iter(operators.families(profile))) == "convolutions"


@pytest.mark.parametrize("engine", ENGINES)
def test_rows_name_layers_dtypes_and_what_runs_them(
    engine: str, profiles: dict[tuple[str, str], OperatorProfile]
) -> None:
    weighted = {"stem.conv", "block.expand.conv", "block.depthwise.conv", "block.gate.reduce", "block.gate.expand"}
    weighted |= {"block.project.conv", "slow", "last.conv", "head.2"}
    for precision in ("fp32", "int8"):
        profile = profiles[engine, precision]
        assert weighted <= {row.layer for row in profile.rows}
        assert "block" in {row.layer for row in profile.rows if operators.family(row.op) == "additions"} or (
            engine == "onnxruntime" and precision == "fp32"  # the addition goes into the convolution there
        )
        slow = next(row for row in profile.rows if row.layer == "slow")
        integers = {"onnxruntime": "uint8", "litert": "int8"}
        assert slow.dtype == ("float32" if precision == "fp32" else integers[engine])
        assert slow.where == {"onnxruntime": "CPUExecutionProvider", "litert": "XNNPACK 1"}[engine]
    method = {"onnxruntime": "engine profiler", "litert": "prefix differences"}[engine]
    assert profiles[engine, "int8"].method == method


def test_hard_swish_costs_no_transpose(profiles: dict[tuple[str, str], OperatorProfile]) -> None:
    assert not [row for row in profiles["litert", "int8"].rows if "TRANSPOSE" in row.op]


# --- parts of a file


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_parts_compute_what_the_whole_file_computes(folder: Path, precision: str) -> None:
    data = (folder / f"model-{precision}.tflite").read_bytes()
    graph = Graph(data)
    whole = every_tensor(data)
    rng = np.random.default_rng(0)
    count = len(graph.writes)
    for first, last in [(0, 0), (0, count - 1), *(sorted(rng.integers(0, count, 2).tolist()) for _ in range(8))]:
        part = litert.Interpreter(model_content=graph.cut(first, last), num_threads=1)
        part.allocate_tensors()
        for port in part.get_input_details():
            part.set_tensor(port["index"], whole[port["index"]])
        part.invoke()
        assert part.get_output_details()
        for port in part.get_output_details():
            value = part.get_tensor(port["index"])
            np.testing.assert_allclose(value, whole[port["index"]], rtol=1e-4, atol=1e-5)


def every_tensor(data: bytes) -> dict[int, npt.NDArray[Any]]:
    """All activations for one image, by making them outputs through LiteRT's own schema."""
    model: Any = schema.ModelT.InitFromPackedBuf(data, 0)
    graph = model.subgraphs[0]
    graph.outputs = [int(operator.outputs[0]) for operator in graph.operators]
    model.signatureDefs = None
    builder = flatbuffers.Builder(len(data))
    builder.Finish(model.Pack(builder), b"TFL3")
    session = litert.Interpreter(model_content=bytes(builder.Output()), num_threads=1)
    session.allocate_tensors()
    port = session.get_input_details()[0]
    noise = np.random.default_rng(1).uniform(-1, 1, port["shape"])
    x = noise.astype(np.float32) if port["dtype"] == np.float32 else (noise * 127).astype(np.int8)
    session.set_tensor(port["index"], x)
    session.invoke()
    return {port["index"]: x} | {int(tensor): session.get_tensor(int(tensor)) for tensor in graph.outputs}


@given(length=st.integers(0, 4000), place=st.integers(0, 3999), bits=st.integers(0, 255))
def test_a_damaged_file_is_refused_or_read(length: int, place: int, bits: int, folder: Path) -> None:
    head = bytearray((folder / "model-int8.tflite").read_bytes()[:length])
    if place < len(head):
        head[place] ^= bits
    with suppress(ValueError):
        Graph(bytes(head))


# --- what is made of the times


@given(st.lists(st.floats(0, 10), min_size=1, max_size=30), st.floats(0.1, 20))
def test_a_profilers_own_time_is_taken_off_in_equal_parts(times: list[float], total: float) -> None:
    off = trace._surplus(times, total)
    left = [max(time - off, 0.0) for time in times]
    if sum(times) <= total:
        assert off == 0
    else:
        assert sum(left) == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("blocks.0.0.conv_dw/Conv", "blocks.0.0.conv_dw"),
        ("blocks.0.0.se/Mul#2", "blocks.0.0.se"),
        ("classifier/FULLY_CONNECTED", "classifier"),
        ("stem/Conv+Relu", "stem"),
        ("node_conv2d_3", "node_conv2d_3"),
        ("a.B_c/d.E_f;2", "a.B_c/d.E_f;2"),
    ],
)
def test_layers_come_out_of_names(name: str, layer: str) -> None:
    assert names.layer(name) == layer


@pytest.mark.parametrize(
    ("op", "family"),
    [
        ("QLinearConv", "convolutions"),
        ("PAD + DEPTHWISE_CONV_2D", "convolutions"),
        ("QGemm", "dense layers"),
        ("FULLY_CONNECTED", "dense layers"),
        ("QLinearGlobalAveragePool", "pooling"),
        ("MEAN", "pooling"),
        ("QLinearMul", "multiplications"),
        ("MatMul", "dense layers"),
        ("HARD_SWISH", "activations"),
        ("LOGISTIC", "activations"),
        ("PADV2", "moves and layouts"),
        ("ReorderInput", "moves and layouts"),
        ("DequantizeLinear", "conversions"),
        ("CUSTOM", "others"),
    ],
)
def test_families(op: str, family: str) -> None:
    assert operators.family(op) == family


def made(artifact: str, *rows: tuple[str, str, float]) -> OperatorProfile:
    total = sum(ms for _, _, ms in rows)
    made_rows = tuple(OperatorRow(op, layer, ms, ms / total, "cpu", "int8") for op, layer, ms in rows)
    return OperatorProfile(artifact, "onnxruntime", "1.0", "host", 1, "engine profiler", total, total, made_rows)


FLOAT = made("onnx-fp32", ("Conv", "a", 4.0), ("Conv", "b", 2.0), ("Mul", "a.act", 0.5))
INT8 = made("onnx-int8", ("QLinearConv", "a", 1.0), ("QLinearConv", "b", 1.5), ("QLinearMul", "a.act", 1.5))


def test_the_reason_is_a_sentence_made_of_the_data() -> None:
    text = operators.because(FLOAT, INT8)
    assert text == (
        "onnx-int8 is faster than onnx-fp32 (4.00 ms against 6.50 ms, 1.62x) because convolutions take 2.50 ms instead "
        "of 6.00 ms (most in a: 1.00 against 4.00); against it, multiplications take 1.50 ms instead of 0.500 ms "
        "(most in a.act: 1.50 against 0.500)"
    )
    assert operators.because(FLOAT, INT8, same=True).startswith(
        "onnx-int8 is about as fast as onnx-fp32 (4.00 ms against 6.50 ms, 1.62x): convolutions take 2.50 ms "
    )
    slower = operators.because(INT8, FLOAT)
    assert "onnx-fp32 is slower than onnx-int8" in slower
    assert "because convolutions take 6.00 ms instead of 2.50 ms" in slower
    other = operators.because(FLOAT, replace(FLOAT, device="pi", total_ms=13.0))
    assert other.startswith("onnx-fp32 on pi is slower than onnx-fp32 on host")


def test_layers_are_compared_by_what_they_gain() -> None:
    found = operators.compare(FLOAT, INT8)
    assert [(each.name, each.gained_ms) for each in found] == [("a", 3.0), ("a.act", -1.0), ("b", 0.5)]


@pytest.mark.parametrize(("file", "engine"), [("none.onnx", "onnxruntime"), ("none.tflite", "litert"), ("x", "nought")])
def test_what_cannot_be_run_is_said_in_one_line(tmp_path: Path, file: str, engine: str) -> None:
    with pytest.raises(Shortfall, match=r"x-int8 on .*: operators were not timed: .") as caught:
        operators.profile_operators(tmp_path / file, "x-int8", engine)
    assert "\n" not in str(caught.value)
