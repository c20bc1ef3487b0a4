from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgekit.export import onnx_weights
from edgekit.runtime import engine_menu, machine
from edgekit.runtime.bench import random_input
from edgekit.runtime.engines import litert, onnxruntime
from edgekit.runtime.errors import RuntimeFault
from edgekit.runtime.port import Port
from tests.support import ROOT

WEIGHTS = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)


@pytest.fixture(scope="module")
def matmul(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file that multiplies [batch, 12] float32 by WEIGHTS."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "matmul",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])],
        [numpy_helper.from_array(WEIGHTS, "w")],
    )
    path = tmp_path_factory.mktemp("onnx") / "matmul.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(params=["onnxruntime", "litert"])
def model(request: pytest.FixtureRequest) -> tuple[Any, str]:
    """An engine and a file it runs."""
    if request.param == "litert":
        return litert, str(request.getfixturevalue("shared") / "models" / "vww_96_int8.tflite")
    return onnxruntime, str(request.getfixturevalue("matmul"))


def test_engines_lists_the_menu() -> None:
    names = ("executorch", "litert", "onnxruntime", "openvino", "tensorflow", "tflite_runtime", "torch_cuda")
    assert engine_menu.engines() == names


def test_engine_names_the_choices_when_unknown() -> None:
    with pytest.raises(
        RuntimeFault, match=r'"tensorrt": no such engine \(choices: executorch, litert, onnxruntime, openvino, tens'
    ):
        engine_menu.engine("tensorrt")


@pytest.mark.parametrize("name", ["litert", "onnxruntime"])
def test_version_is_that_of_the_installed_package(name: str) -> None:
    from importlib.metadata import version

    engine = engine_menu.engine(name)
    assert engine.version() == version(engine.PACKAGE)


@pytest.mark.parametrize(("name", "package"), [(n, engine_menu.engine(n).PACKAGE) for n in engine_menu.engines()])
def test_load_says_the_pip_command_when_not_installed(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, engine_menu.engine(name).MODULE, None)
    for call in (
        engine_menu.engine(name).version,
        engine_menu.engine(name).providers,
        lambda: engine_menu.engine(name).load("m"),
    ):
        with pytest.raises(RuntimeFault, match=f"pip install {package}"):
            call()


@pytest.mark.parametrize("threads", [1, 2])
def test_run_multiplies_on_onnxruntime(matmul: Path, threads: int) -> None:
    session = onnxruntime.load(str(matmul), threads)
    x = np.random.default_rng(1).normal(size=(1, 12)).astype(np.float32)
    np.testing.assert_allclose(session.run(x), x @ WEIGHTS, rtol=1e-5)
    assert session.input == Port("x", (1, 12), "float32")
    assert session.output == Port("y", (1, 5), "float32")
    assert session.provider == "CPUExecutionProvider"


@pytest.mark.parametrize("file", ["vww_96_float", "vww_96_int8", "tf2_mobilenet_v2_1.0_224_ptq"])
def test_run_equals_the_plain_interpreter_on_litert(shared: Path, file: str) -> None:
    from ai_edge_litert.interpreter import Interpreter

    path = str(shared / "models" / f"{file}.tflite")
    session = litert.load(path)
    plain = Interpreter(model_path=path, num_threads=1)
    plain.allocate_tensors()
    source, sink = plain.get_input_details()[0], plain.get_output_details()[0]
    assert session.input.shape == tuple(source["shape"])
    assert np.dtype(session.input.dtype) == source["dtype"]
    scale, zero_point = source["quantization"]
    assert (session.input.scale or 0.0, session.input.zero_point or 0) == (scale, zero_point)
    x = random_input(session.input, 3)
    plain.set_tensor(source["index"], x)
    plain.invoke()
    np.testing.assert_array_equal(session.run(x), plain.get_tensor(sink["index"]))


def test_port_has_no_scale_when_float(shared: Path) -> None:
    session = litert.load(str(shared / "models" / "vww_96_float.tflite"))
    assert (session.input.scale, session.input.zero_point) == (None, None)
    assert (session.input.dtype, session.output.dtype) == ("float32", "float32")


def test_run_returns_an_output_that_stays_when_run_again(model: tuple[Any, str]) -> None:
    engine, path = model
    session = engine.load(path)
    first = session.run(random_input(session.input, 0))
    kept = first.copy()
    for seed in range(1, 4):
        session.run(random_input(session.input, seed))
    np.testing.assert_array_equal(first, kept)
    session.close()
    np.testing.assert_array_equal(first, kept)


def test_run_raises_one_line_when_shape_is_wrong(model: tuple[Any, str]) -> None:
    engine, path = model
    session = engine.load(path)
    with pytest.raises(RuntimeFault, match="inference failed: ") as caught:
        session.run(np.zeros((3, 3), session.input.dtype))
    assert "\n" not in str(caught.value)


def test_run_raises_one_line_when_dtype_is_wrong(model: tuple[Any, str]) -> None:
    engine, path = model
    session = engine.load(path)
    with pytest.raises(RuntimeFault, match="inference failed: ") as caught:
        session.run(np.zeros(session.input.shape, np.float64))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("engine", [onnxruntime, litert])
def test_load_raises_one_line_when_file_is_garbage(engine: Any, tmp_path: Path) -> None:
    path = tmp_path / "garbage"
    path.write_bytes(b"neither one nor the other" * 50)
    with pytest.raises(RuntimeFault, match=f"{path}: cannot be loaded: ") as caught:
        engine.load(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("engine", [onnxruntime, litert])
def test_load_raises_when_file_is_missing(engine: Any, tmp_path: Path) -> None:
    with pytest.raises(RuntimeFault, match="cannot be loaded: "):
        engine.load(str(tmp_path / "none"))


def test_load_names_the_providers_when_unknown(model: tuple[Any, str]) -> None:
    engine, path = model
    with pytest.raises(RuntimeFault, match=r"\(choices: .*(cpu|XNNPACK, builtin)"):
        engine.load(path, 1, "FooExecutionProvider")


STEP = 20000.0


def int8_net(layers: int, shared: bool) -> bytes:
    """1x1 convolutions of 16 channels as Q/DQ pairs; weights of 100 and more, outputs in steps of `STEP`."""
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, Any] = {"one": np.float32(1), "step": np.float32(STEP), "zero": np.uint8(0)}
    nodes.append(helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["q"]))
    nodes.append(helper.make_node("DequantizeLinear", ["q", "one", "zero"], ["0"]))
    for n in range(layers):
        weight = np.random.default_rng(n).integers(100, 127, (16, 16, 1, 1), np.int8)
        constants |= {f"w{n}": weight, f"zp{n}": np.int8(0)}
        nodes += [
            helper.make_node("DequantizeLinear", [f"w{n}", "one", "zp0" if shared else f"zp{n}"], [f"wf{n}"]),
            helper.make_node("Conv", [f"{n}", f"wf{n}"], [f"y{n}"]),
            helper.make_node("QuantizeLinear", [f"y{n}", "step", "zero"], [f"q{n}"]),
            helper.make_node("DequantizeLinear", [f"q{n}", "step", "zero"], [f"{n + 1}"]),
        ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 16, 4, 4]) for name in ("x", f"{layers}")]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "int8", ends[:1], ends[1:], tensors)
    made: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    ).SerializeToString()
    return made


def test_int8_sums_do_not_saturate_on_onnxruntime() -> None:
    session = onnxruntime.load(int8_net(1, shared=False))
    weight = np.random.default_rng(0).integers(100, 127, (16, 16, 1, 1), np.int8)[:, :, 0, 0].astype(np.int64)
    sums = np.einsum("oi,nihw->nohw", weight, np.full((1, 16, 4, 4), 255))  # pairs of products beyond int16
    assert np.array_equal(session.run(np.full((1, 16, 4, 4), 255, np.float32)), np.rint(sums / STEP) * STEP)


def test_saturation_is_tried_with_a_product_of_bytes() -> None:
    """The model that is tried is the one that its comment says."""
    bytes_127 = helper.make_tensor("v", TensorProto.INT8, [1], [127])
    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["b"], value=bytes_127),
        helper.make_node("MatMulInteger", ["a", "b"], ["y"]),
    ]
    source = helper.make_tensor_value_info("a", TensorProto.UINT8, [None, 64])
    sink = helper.make_tensor_value_info("y", TensorProto.INT32, [None, 32])
    shape = helper.make_tensor("s", TensorProto.INT64, [2], [64, 32])
    graph = helper.make_graph(nodes, "p", [source], [sink], [shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert model.SerializeToString() == onnxruntime._PRODUCT


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only products of x86 saturate")
def test_a_build_without_the_product_counts_as_one_that_saturates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "_PRODUCT", onnxruntime._PRODUCT.replace(b"MatMulInteger", b"NoSuchProduct"))
    assert onnxruntime.saturates.__wrapped__()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only products of x86 saturate")
def test_products_saturate_where_the_cpu_has_no_vnni() -> None:
    """On this CPU, and on an emulated Haswell, which has AVX2 alone; ONNX Runtime's own kernels run on both."""
    assert onnxruntime.saturates() is not bool({"avx_vnni", "avx512_vnni"} & set(machine.facts()["features"]))
    emulator = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
    if emulator is None:
        pytest.skip("no qemu-x86_64 here (apt-get install qemu-user-static): an older CPU was not tried")
    code = f"import sys; sys.path = {[str(ROOT), *sys.path]}; from edgekit.runtime.engines import onnxruntime"
    command = [emulator, "-cpu", "Haswell-noTSX", os.path.realpath(sys.executable), "-c"]
    ran = subprocess.run([*command, f"{code}; print(onnxruntime.saturates())"], capture_output=True, text=True)
    assert ran.stdout == "True\n", ran.stderr


def test_onnxruntime_loads_int8_weights_that_share_a_zero_point() -> None:
    session = onnxruntime.load(int8_net(2, shared=True))
    assert session.run(np.ones((1, 16, 4, 4), np.float32)).shape == (1, 16, 4, 4)


def test_exported_weights_have_zero_points_of_their_own() -> None:
    shared, own = (onnx.load_from_string(int8_net(3, shared=shared)) for shared in (True, False))
    onnx_weights.unshare_constants(shared.graph)
    weights = [node for node in shared.graph.node if node.op_type == "DequantizeLinear" and node.input[0][0] == "w"]
    assert len({node.input[2] for node in weights}) == len(weights) == 3
    x = np.random.default_rng(1).integers(0, 255, (1, 16, 4, 4)).astype(np.float32)
    first, second = (onnxruntime.load(model.SerializeToString()).run(x) for model in (shared, own))
    assert np.array_equal(first, second)


def test_load_raises_when_provider_takes_no_operator(matmul: Path) -> None:
    if "AzureExecutionProvider" not in onnxruntime.providers():
        pytest.skip("this build of onnxruntime has no provider but the CPU's")
    with pytest.raises(RuntimeFault, match="AzureExecutionProvider was asked for, but CPUExecutionProvider would run"):
        onnxruntime.load(str(matmul), 1, "AzureExecutionProvider")


@pytest.mark.parametrize("provider", ["XNNPACK", "builtin"])
def test_load_uses_the_provider_asked_for_on_litert(shared: Path, provider: str) -> None:
    path = str(shared / "models" / "vww_96_float.tflite")
    session = litert.load(path, 1, provider)
    assert session.provider == provider
    x = random_input(session.input, 0)
    np.testing.assert_allclose(session.run(x), litert.load(path).run(x), atol=1e-5)


def test_load_raises_when_model_has_two_inputs(tmp_path: Path) -> None:
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "abc"]
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["c"])], "add", ports[:2], ports[2:])
    path = tmp_path / "add.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(RuntimeFault, match="inputs: one is supported, the model has 2"):
        onnxruntime.load(str(path))


def test_load_prints_nothing_on_litert(shared: Path) -> None:
    code = "import sys; from edgekit.runtime.engines import litert; litert.load(sys.argv[1]); sys.stderr.write('end')"
    argv = [sys.executable, "-c", code, str(shared / "models" / "vww_96_int8.tflite")]
    answer = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert (answer.stdout, answer.stderr) == ("", "end")


@given(
    shape=st.lists(st.integers(1, 5), max_size=4).map(tuple),
    dtype=st.sampled_from(["float32", "float16", "int8", "uint8", "int32"]),
    seed=st.integers(0, 2**32),
)
def test_random_input_fits_the_port(shape: tuple[int, ...], dtype: str, seed: int) -> None:
    make: Callable[[], np.ndarray[Any, Any]] = lambda: random_input(Port("x", shape, dtype), seed)  # noqa: E731
    x = make()
    assert (x.shape, x.dtype) == (shape, np.dtype(dtype))
    assert np.isfinite(x).all()
    np.testing.assert_array_equal(x, make())
