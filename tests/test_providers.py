"""Execution providers: what is asked for is what runs. The GPU is SwiftShader, the software Vulkan inside Chromium."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from pydantic import ValidationError
from torch import nn

from edgekit.console import Console
from edgekit.device.file import Device, RunSection
from edgekit.errors import Shortfall
from edgekit.measurements import Copies
from edgekit.profile import operators
from edgekit.profile.run import profile
from edgekit.report import placement as words
from edgekit.report.formats import html, markdown
from edgekit.runtime import placement as placement_module
from edgekit.runtime.engines import litert, onnxruntime, torch_cuda
from edgekit.runtime.errors import RuntimeFault
from edgekit.types import Artifact, TensorSpec
from tests import interpreters, model_files, nets, report_sample
from tests.support import environment

CHROMIUM = Path("/usr/lib/chromium")
WORKER = """
import json, sys
import numpy as np
from edgekit.runtime import engine_menu
from edgekit.runtime.errors import RuntimeFault

engine, path, provider, x, y = sys.argv[1:]
try:
    session = engine_menu.engine(engine).load(path, 1, provider)
    result = session.run(np.load(x))
    assert np.array_equal(result, session.run(np.load(x)))
    np.save(y, result)
    print(json.dumps({"provider": session.provider, "placement": session.placement}))
except RuntimeFault as fault:
    print(json.dumps({"fault": str(fault)}))
"""
WEBGPU, CPU = "WebGpuExecutionProvider", "CPUExecutionProvider"
SOFTWARE = "SwiftShader Device (Subzero)"
Array = npt.NDArray[Any]


@pytest.fixture(scope="module")
def gpu(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables with which a process finds SwiftShader."""
    icd = CHROMIUM / "vk_swiftshader_icd.json"
    if not icd.exists() or not (CHROMIUM / "libvulkan.so.1").exists():
        pytest.skip("no SwiftShader: apt-get install chromium")
    folder = tmp_path_factory.mktemp("vulkan")
    (folder / "libvulkan.so.1").symlink_to(CHROMIUM / "libvulkan.so.1")
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("LD_LIBRARY_PATH")]))
    return {"VK_ICD_FILENAMES": str(icd), "XDG_RUNTIME_DIR": str(folder), "LD_LIBRARY_PATH": path}


@pytest.fixture(scope="module")
def webgpu(pytestconfig: pytest.Config) -> Path:
    """A Python with onnxruntime-webgpu, which cannot be where onnxruntime is."""
    return interpreters.environment(
        interpreters.bare("3.11"), ["onnxruntime-webgpu>=1.27,<1.28", "numpy"], pytestconfig
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float and an int8 net in ONNX; in TFLite one with an operator that GPUs lack."""
    folder = tmp_path_factory.mktemp("models")
    net = model_files.float_onnx()
    for tensor in net.graph.initializer:  # by hand they are all alike
        values = onnx.numpy_helper.to_array(tensor)
        if values.size > 1:
            drawn = np.random.default_rng(len(tensor.name)).normal(size=values.shape).astype(values.dtype)
            tensor.CopyFrom(onnx.numpy_helper.from_array(drawn, tensor.name))
    onnx.save(net, folder / "float.onnx")
    onnx.save(model_files.int8_onnx(), folder / "int8.onnx")
    build = model_files._Tflite()
    x, y, z = (build.tensor(name, (1, 8), scale=1 / 128) for name in "xyz")
    mask = build.tensor("mask", (1, 8), np.full((1, 8), 5, np.int8))
    kinds = schema.BuiltinOperator
    build.operator(kinds.ABS, [x], [y])
    build.operator(kinds.BITWISE_XOR, [y, mask], [z])
    build.model.operatorCodes[1].version = 1
    (folder / "xor.tflite").write_bytes(build.bytes([x], [z]))
    return folder


def run(
    python: str | Path, engine: str, path: Path, provider: str, x: Array, folder: Path, variables: dict[str, str]
) -> tuple[dict[str, Any], Any]:
    """What a process of its own says about the session, and its output, where there is one."""
    source, sink = folder / "x.npy", folder / "y.npy"
    np.save(source, x)
    words = [str(word) for word in (python, "-c", WORKER, engine, path, provider, source, sink)]
    got = subprocess.run(words, env=environment(**variables), capture_output=True, text=True)
    assert got.returncode == 0, got.stderr
    answer: dict[str, Any] = json.loads(got.stdout.splitlines()[-1])
    return answer, np.load(sink) if "fault" not in answer else None


def pixels(seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(1, 3, 8, 8)).astype(np.float32)


NOWHERE = {"VK_ICD_FILENAMES": os.devnull, "DISPLAY": "", "LD_LIBRARY_PATH": ""}


# --- ONNX Runtime


def test_webgpu_computes_what_the_cpu_does(files: Path, webgpu: Path, gpu: dict[str, str], tmp_path: Path) -> None:
    x = pixels()
    said, got = run(webgpu, "onnxruntime", files / "float.onnx", "webgpu", x, tmp_path, gpu)
    assert said["provider"] == WEBGPU
    assert set(said["placement"]) == {WEBGPU}
    ran = said["placement"][WEBGPU]
    assert (ran["Conv"], ran["GlobalAveragePool"], ran["Gemm"]) == (1, 1, 1)
    wanted = onnxruntime.load(str(files / "float.onnx")).run(x)  # the other build of ONNX Runtime
    assert np.ptp(wanted) > 1
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_an_operator_that_the_gpu_leaves_to_the_cpu_is_a_fault_unless_accepted(
    files: Path, webgpu: Path, gpu: dict[str, str], tmp_path: Path
) -> None:
    x = np.random.default_rng(1).integers(0, 7, (1, 3, 8, 8)).astype(np.uint8)
    said, got = run(webgpu, "onnxruntime", files / "int8.onnx", "webgpu+cpu", x, tmp_path, gpu)
    assert said["provider"] == WEBGPU
    assert said["placement"][WEBGPU]["Conv"] == 1
    left = said["placement"][CPU]
    assert left["QuantizeLinear"] > 0
    wanted = onnxruntime.load(str(files / "int8.onnx")).run(x)
    assert np.ptp(wanted) > 2
    assert np.abs(got.astype(int) - wanted).max() <= 1
    every = sum(sum(kinds.values()) for kinds in said["placement"].values())
    said, _ = run(webgpu, "onnxruntime", files / "int8.onnx", "webgpu", x, tmp_path, gpu)
    assert f"int8.onnx: {WEBGPU} was asked for, but {sum(left.values())} of {every} operators ran" in said["fault"]
    assert said["fault"].endswith('accept that with allow_fallback = true, or "webgpu+cpu"')


def test_without_a_gpu_webgpu_is_a_fault_and_the_cpu_only_where_accepted(
    files: Path, webgpu: Path, tmp_path: Path
) -> None:
    x = pixels()
    said, _ = run(webgpu, "onnxruntime", files / "float.onnx", "webgpu", x, tmp_path, NOWHERE)
    assert said["fault"].endswith("float.onnx: cannot be loaded: Failed to get a WebGPU adapter: No supported adapters")
    said, got = run(webgpu, "onnxruntime", files / "float.onnx", "webgpu+cpu", x, tmp_path, NOWHERE)
    assert said["provider"] == CPU
    assert set(said["placement"]) == {CPU}
    np.testing.assert_allclose(got, onnxruntime.load(str(files / "float.onnx")).run(x), rtol=1e-5, atol=1e-5)


def event(op: str, provider: str, source: str = "float", size: int = 4, sink: str | None = None) -> dict[str, Any]:
    shapes = {"input_type_shape": [{source: [1] * size}], "output_type_shape": [{sink or source: [1] * size}]}
    return {"args": {"op_name": op, "provider": provider, **shapes}}


def test_operators_on_shapes_are_no_fallback() -> None:
    every = [
        event("Conv", "GPU"),
        event("Shape", CPU, "float", 1, "int64"),
        event("Gather", CPU, "int64", 1),
        event("Concat", CPU, "int32", 0),
        event("Cast", CPU, "int64", 1, "float"),
        event("Gather", CPU, "int64", 2),
        event("QuantizeLinear", CPU, "uint8", 1),
        event("Clip", CPU),
        event("Clip", CPU),
    ]
    assert placement_module.strays(every, "GPU") == {"Clip": 2, "Cast": 1, "Gather": 1, "QuantizeLinear": 1}
    assert placement_module.strays(every[:4], "GPU") == {}
    assert placement_module.strays([], "GPU") == {}


@pytest.mark.parametrize("profile", [None, "", "[]", '[{"cat": "Session", "name": "model_run"}]'])
def test_what_cannot_be_read_back_is_a_fault(profile: str | None, tmp_path: Path) -> None:
    class Options:
        profile_file_prefix = ""

    class Session:
        def end_profiling(self) -> str:
            if profile is not None:
                (tmp_path / "profile.json").write_text(profile)
            return str(tmp_path / "profile.json")

    options = Options()
    watch = placement_module.Watch(options)
    folder = Path(options.profile_file_prefix).parent
    assert folder.is_dir()
    with pytest.raises(
        RuntimeFault, match=r"what ran cannot be read: |GPU was asked for, but ONNX Runtime does not tell"
    ):
        watch.end(Session(), "GPU")
    assert not folder.exists()


def test_each_word_is_a_provider_of_onnxruntime() -> None:
    from onnxruntime import get_all_providers

    known = set(get_all_providers())
    assert {name for word, name in onnxruntime.WORDS.items() if word != "rocm"} <= known  # rocm: gone since 1.23


def test_a_provider_that_the_build_lacks_is_named_with_the_choices(files: Path) -> None:
    with pytest.raises(
        RuntimeFault, match=r'"tensorrt": this build of onnxruntime has no such provider \(choices: .*cpu'
    ):
        onnxruntime.load(str(files / "float.onnx"), provider="tensorrt")


def test_steps_take_an_inference_apart(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = onnxruntime.load(str(files / "float.onnx"), provider="cpu")
    steps: Any = session
    assert steps.steps(pixels()) is None
    monkeypatch.setitem(onnxruntime._MEMORY, CPU, "cpu")  # the same calls, without a GPU
    assert all(ns > 0 for ns in steps.steps(pixels()))
    session.close()
    assert steps.steps(pixels()) is None


# --- LiteRT


@pytest.mark.parametrize("provider", ["gpu", "gpu-fp16"])
def test_the_gpu_of_litert_computes_what_the_cpu_does(
    shared: Path, gpu: dict[str, str], tmp_path: Path, provider: str
) -> None:
    path = shared / "models" / "vww_96_float.tflite"
    plain = litert.load(str(path))
    x = np.random.default_rng(2).random(plain.input.shape, np.float32)
    said, got = run(sys.executable, "litert", path, provider, x, tmp_path, gpu)
    used = f"{provider} ({SOFTWARE})"
    assert said["provider"] == used
    assert set(said["placement"]) == {used}
    assert said["placement"][used]["CONV_2D"] == 14
    np.testing.assert_allclose(got, plain.run(x), atol=1e-5 if provider == "gpu" else 1e-2)


def test_an_operator_that_litert_leaves_to_the_cpu_is_a_fault_unless_accepted(
    files: Path, gpu: dict[str, str], tmp_path: Path
) -> None:
    x = np.arange(-4, 4, dtype=np.int8)[None]
    said, _ = run(sys.executable, "litert", files / "xor.tflite", "gpu", x, tmp_path, gpu)
    assert "xor.tflite: gpu was asked for: it cannot run BITWISE_XOR: " in said["fault"]
    said, got = run(sys.executable, "litert", files / "xor.tflite", "gpu+cpu", x, tmp_path, gpu)
    assert said["provider"] == f"gpu ({SOFTWARE})"
    assert said["placement"] == {said["provider"]: {"operators": 1}, "CPU": {"operators": 1}}
    assert np.array_equal(got, np.abs(x) ^ 5)


def test_without_a_gpu_litert_says_so_and_uses_the_cpu_only_where_accepted(files: Path, tmp_path: Path) -> None:
    x = np.arange(-4, 4, dtype=np.int8)[None]
    said, _ = run(sys.executable, "litert", files / "xor.tflite", "gpu", x, tmp_path, NOWHERE)
    assert said["fault"].endswith(
        "xor.tflite: gpu was asked for: there is no GPU that Vulkan, Metal or Direct3D can use"
    )
    said, got = run(sys.executable, "litert", files / "xor.tflite", "gpu+cpu", x, tmp_path, NOWHERE)
    assert said["provider"] in ("XNNPACK", "builtin")
    assert np.array_equal(got, np.abs(x) ^ 5)


def test_operators_of_a_gpu_are_not_timed_as_if_the_cpu_ran_them(
    files: Path, gpu: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in gpu.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Shortfall, match=r"operators that run on gpu \(.*\) cannot be timed one by one"):
        operators.profile_operators(files / "xor.tflite", "xor", "litert", provider="gpu+cpu")


# --- device files, and what the profile stage makes of them


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"providers": {"onnxruntime": "cuba"}},
            'onnxruntime: "cuba": no such provider; did you mean "cuda"? (choices: ',
        ),
        (
            {"providers": {"litert": "cuda"}},
            'litert: "cuda": no such provider (choices: XNNPACK, builtin, cpu, gpu, gpu-',
        ),
        ({"engines": ["litert"], "providers": {"onnxruntime": "cuda"}}, '"onnxruntime": no such engine of this device'),
    ],
)
def test_providers_are_checked_in_the_device_file(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        RunSection.model_validate(section)
    assert message in str(caught.value)


def test_the_engine_is_told_whether_the_cpu_may_help() -> None:
    section = {"providers": {"onnxruntime": "cuda"}}
    assert RunSection.model_validate(section).provider("onnxruntime") == "cuda"
    accepting = RunSection.model_validate({**section, "allow_fallback": True})
    assert accepting.provider("onnxruntime") == "cuda+cpu"
    assert accepting.provider("litert") is None


def test_elsewhere_says_what_ran_elsewhere() -> None:
    placement = {"GPU": {"Conv": 8}, "CPU": {"Clip": 3, "Cast": 1}}
    assert words.elsewhere("GPU", placement) == "4 of 12 operators on CPU (Clip 3, Cast)"
    assert words.elsewhere("GPU", {"GPU": {"Conv": 8}}) == ""
    assert words.elsewhere("GPU", {}) == ""


def test_reports_show_what_ran_elsewhere_and_what_copying_took() -> None:
    sample = report_sample.report()
    placement = {"GPU": {"Conv": 8}, "CPU": {"Clip": 3, "Cast": 1}}
    rows = tuple(
        replace(t, provider="GPU", placement=placement, copies=Copies(0.25, 1.5, 0.125)) for t in sample.latency
    )
    told = "GPU; 4 of 12 operators on CPU (Clip 3, Cast); copy in 0.25 ms, compute 1.5 ms, copy out 0.125 ms"
    for render in (html.render, markdown.render):
        assert told in render(replace(sample, latency=rows))
        assert "operators on" not in render(sample)


def test_profile_records_where_operators_ran(files: Path, gpu: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in gpu.items():
        monkeypatch.setenv(name, value)
    port = TensorSpec("x", (1, 8), "int8", "NC")
    file = files / "xor.tflite"
    made = Artifact("tflite-int8", "tflite", "int8", file.name, "", 0, 0, (), port, port)
    run_ = {"engines": ["litert"], "providers": {"litert": "gpu"}, "seconds": 0.02, "warmup": 1, "rounds": 1}
    devices = {
        name: Device.model_validate({"name": name, "run": {**run_, "allow_fallback": name == "lenient"}})
        for name in ("strict", "lenient")
    }
    result = profile([made], files, devices, Console(quiet=True))
    (timing,) = result.timings
    assert (timing.device, timing.provider) == ("lenient", f"gpu ({SOFTWARE})")
    assert timing.placement == {timing.provider: {"operators": 1}, "CPU": {"operators": 1}}
    assert timing.copies is None
    (failure,) = result.failures
    assert (failure.device, failure.lost) == ("strict", False)
    assert "it cannot run BITWISE_XOR" in failure.reason


# --- PyTorch: here without a GPU, so no CUDA graph


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nets.Net]:
    """An exported program, and the module it was made of."""
    net = nets.Net(lambda net, x: net.head(net.stem(x)), stem=nets.conv(3, 8, 3, nn.ReLU6, 2), head=nets.head(8))
    module = nets.settled(net)
    path = tmp_path_factory.mktemp("program") / "net.pt2"
    torch.export.save(torch.export.export(module, (nets.images(1),)), path)
    return path, net


def test_torch_runs_an_exported_program(program: tuple[Path, nets.Net]) -> None:
    path, net = program
    image = nets.images(1, seed=3)
    with torch.no_grad():
        wanted = net(image).numpy()
    session: Any = torch_cuda.load(str(path), provider="cpu")
    assert (session.provider, session.input.shape, session.output.shape) == ("cpu", (1, 3, 32, 32), (1, 10))
    first = session.run(image.numpy())
    np.testing.assert_allclose(first, wanted, atol=1e-5)
    kept = first.copy()
    session.run(nets.images(1, seed=4).numpy())
    assert np.array_equal(first, kept)  # a later run does not change it
    assert all(ns > 0 for ns in session.steps(image.numpy()))
    half = torch_cuda.open_program(path.read_bytes(), "cpu", True, "cpu", "net")
    np.testing.assert_allclose(half.run(image.numpy()), wanted, atol=0.02)
    session.close()
    with pytest.raises(RuntimeFault, match="the model is closed"):
        session.run(image.numpy())


def test_torch_faults(program: tuple[Path, nets.Net], tmp_path: Path) -> None:
    path, _ = program
    session = torch_cuda.load(str(path), provider="cpu")
    for wrong in (np.zeros((1, 3, 31, 32), np.float32), np.zeros((1, 3, 32, 32), np.float64)):
        with pytest.raises(RuntimeFault, match=r"float32 \(1, 3, 32, 32\) is needed, not float"):
            session.run(wrong)
    with pytest.raises(RuntimeFault, match=r'"tpu": no such provider of this engine \(choices: cuda, cuda-fp16, cpu\)'):
        torch_cuda.load(str(path), provider="tpu")
    (tmp_path / "broken.pt2").write_bytes(path.read_bytes()[:500])
    for name in ("broken.pt2", "missing.pt2"):
        with pytest.raises(RuntimeFault, match=f"{name}: cannot be loaded: "):
            torch_cuda.load(str(tmp_path / name), provider="cpu")
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeFault, match=r"net.pt2: cuda was asked for: (torch finds no|this build of torch)"):
            torch_cuda.load(str(path))
