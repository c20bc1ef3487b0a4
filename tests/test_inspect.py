"""`edgekit inspect`: its numbers against paper, torch's counter and another implementation; damaged files."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import flatbuffers
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from edgekit.deploy import bundle as deploy
from edgekit.errors import InputError
from edgekit.export import onnx_weights
from edgekit.graph.tflite_table import Table
from edgekit.inspect import _worker, dispatch, file_report, model_graph
from edgekit.inspect import bundle_file as bundle_format
from edgekit.inspect.model_graph import FileGraph, Op, Value
from edgekit.inspect.readers import onnx as onnx_format
from edgekit.inspect.readers import tflite as tflite_format
from edgekit.runtime import archive
from tests import model_files, small_bundle
from tests.support import complaint, edgekit, environment

READ = {"onnx": onnx_format.inspect, "tflite": tflite_format.inspect}


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


# Numbers that can be worked out on paper.


def test_float_onnx_by_hand() -> None:
    report = onnx_format.inspect(model_files.float_onnx().SerializeToString(), "f")
    assert report.ops == {"Clip": 1, "Conv": 1, "Flatten": 1, "Gemm": 1, "GlobalAveragePool": 1}
    assert (report.macs, report.parameters) == (model_files.MACS, model_files.PARAMETERS)
    assert (report.peak_bytes, report.peak_at) == (model_files.CLAMP_PEAK, "Clip clip")
    assert not report.quantized
    assert report.float_ops == ("Conv conv", "GlobalAveragePool pool", "Gemm dense")  # the clamp goes with Conv
    assert report.versions == {"ir": 10, "opset ai.onnx": 20}
    assert report.inputs == (file_report.Port("x", (1, 3, 8, 8), "float32"),)
    assert report.outputs == (file_report.Port("y", (1, 5), "float32"),)
    assert report.bytes_by_type["float32"] == 4 * (model_files.PARAMETERS + 2)  # and the two bounds
    assert report.notes == ("open dimensions are counted as 1: x (batch)",)


def test_int8_onnx_by_hand() -> None:
    report = onnx_format.inspect(model_files.int8_onnx().SerializeToString(), "f")
    assert report.quantized
    assert report.float_ops == ()
    assert report.macs == model_files.CONV_MACS
    assert report.parameters == 4 * 3 * 9 + 4
    assert report.peak_bytes == 3 * 64 + 4 * 64  # as integers: the pairs around the convolution vanish in the kernel
    assert report.inputs == (file_report.Port("x", (1, 3, 8, 8), "uint8", 0.5, 3),)
    assert report.outputs == (file_report.Port("q", (1, 4, 8, 8), "uint8", 0.5, 0),)


def test_float_operator_in_a_quantized_onnx() -> None:
    report = onnx_format.inspect(model_files.int8_onnx(left_float=True).SerializeToString(), "f")
    assert report.quantized
    assert report.float_ops == ("Elu elu",)
    assert report.peak_bytes == 2 * 4 * 4 * 64  # it takes and gives float32


@pytest.mark.parametrize("precision", ["fp16", "weight_only", "dynamic"])
def test_weights_that_are_stored_small_count_once(precision: str) -> None:
    """Cast, Mul and its scales restore them, or scale what integers gave."""
    model = model_files.float_onnx()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    report = onnx_format.inspect(onnx_weights.apply(model.SerializeToString(), precision), "f")
    assert (report.macs, report.parameters) == (model_files.MACS, model_files.PARAMETERS)
    assert report.quantized == (precision == "dynamic")


def test_int8_tflite_by_hand() -> None:
    report = tflite_format.inspect(model_files.int8_tflite(), "f")
    assert report.ops == {"CONV_2D": 1, "FULLY_CONNECTED": 1, "LOGISTIC": 1, "MEAN": 1}
    assert (report.macs, report.parameters) == (model_files.MACS, model_files.PARAMETERS)
    assert (report.peak_bytes, report.peak_at) == (3 * 64 + 4 * 64, "CONV_2D conv")
    assert report.quantized
    assert report.float_ops == ()
    assert report.versions == {"schema": 3}
    assert report.bytes_by_type["int8"] == 4 * 3 * 9 + 5 * 4
    assert report.bytes_by_type["int32"] == 4 * (4 + 5 + 2)
    assert sum(report.bytes_by_type.values()) == report.bytes
    assert report.outputs == (file_report.Port("y", (1, 5), "int8", 1 / 256, -128),)


def test_peak_of_a_branch_by_hand() -> None:
    """a (10) is kept over b (20) and c (40) until it is added: at c there are 10 + 20 + 40."""
    values = {name: Value((count,), "int8") for name, count in {"a": 10, "b": 20, "c": 40, "d": 10, "e": 10}.items()}
    ops = (
        Op("F", "first", ("a",), ("b",)),
        Op("F", "second", ("b",), ("c",)),
        Op("F", "third", ("c",), ("d",)),
        Op("Add", "sum", ("a", "d"), ("e",)),
    )
    assert model_graph.peak(FileGraph(ops, values, ("a",), ("e",))) == (70, "F second")


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99), st.integers(1, 1000)), min_size=1, max_size=12))
def test_peak_is_that_of_an_allocator_that_frees_what_nobody_reads_any_more(steps: list[tuple[int, int, int]]) -> None:
    sizes, ops = [7], []
    for number, (first, second, size) in enumerate(steps, 1):
        ops.append(Op("F", "", (str(first % number), str(second % number)), (str(number),)))
        sizes.append(size)
    values = {str(index): Value((size,), "int8") for index, size in enumerate(sizes)}
    last = str(len(steps))
    held, most = {"0"}, 0
    for step, op in enumerate(ops):
        held |= set(op.outputs)
        most = max(most, sum(sizes[int(name)] for name in held))
        ahead = {name for later in ops[step + 1 :] for name in later.inputs} | {last}
        held &= ahead
    assert model_graph.peak(FileGraph(tuple(ops), values, ("0",), (last,)))[0] == most


# Against torch's counter.


class Net(torch.nn.Module):
    """Grouped and transposed convolutions, a matrix product, and a constant that is no parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.groups = torch.nn.Conv2d(8, 8, 3, groups=2)
        self.depthwise = torch.nn.Conv2d(8, 16, 3, groups=8)
        self.up = torch.nn.ConvTranspose2d(16, 6, 2, stride=2)
        self.dense = torch.nn.Linear(24, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(self.depthwise(self.groups(self.first(x)).relu())).mean((2, 3))
        rows = torch.cat([x, x * 3.0, x, x], 1)
        logits: torch.Tensor = self.dense(rows)
        return logits @ logits.transpose(0, 1)


def macs_of_torch(module: torch.nn.Module, size: int) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.eval()(torch.zeros(1, 3, size, size))
    return int(counter.get_total_flops()) // 2


@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_onnx_macs_and_parameters_are_those_of_torch(tmp_path: Path) -> None:
    module = Net().eval()
    torch.onnx.export(module, (torch.zeros(1, 3, 32, 32),), str(tmp_path / "net.onnx"), dynamo=False, opset_version=17)
    report = onnx_format.inspect((tmp_path / "net.onnx").read_bytes(), "net.onnx")
    assert report.macs == macs_of_torch(module, 32)
    assert report.parameters == sum(parameter.numel() for parameter in module.parameters())
    assert report.not_counted == {}


@pytest.mark.filterwarnings("ignore")
def test_mobilenet_v2(shared: Path, tmp_path: Path) -> None:
    timm, safetensors = pytest.importorskip("timm"), pytest.importorskip("safetensors.torch")
    weights = next((shared / "weights").glob("mobilenetv2_100*.safetensors"))
    state = safetensors.load_file(weights)
    module = timm.create_model("mobilenetv2_100", num_classes=state["classifier.bias"].numel()).eval()
    module.load_state_dict(state)
    torch.onnx.export(module, (torch.zeros(1, 3, 224, 224),), str(tmp_path / "v2.onnx"), dynamo=False, opset_version=17)
    report = onnx_format.inspect((tmp_path / "v2.onnx").read_bytes(), "v2.onnx")
    assert report.macs == macs_of_torch(module, 224)
    assert 299e6 < report.macs < 302e6
    convolutions = [each for each in module.modules() if isinstance(each, torch.nn.Conv2d)]
    folded = sum(each.weight.numel() + each.out_channels for each in convolutions)  # batch norm becomes a bias
    assert report.parameters == folded + sum(each.numel() for each in module.classifier.parameters())
    assert report.ops["Conv"] == len(convolutions) == 52


# Files that others made. MACs as published for MLPerf Tiny and by Keras' and TF-Slim's tables.

THIRD = {
    "kws_ref_model": (2.66e6, {"CONV_2D": 5, "DEPTHWISE_CONV_2D": 4}, "int8"),
    "vww_96_int8": (7.49e6, {"CONV_2D": 14, "DEPTHWISE_CONV_2D": 13}, "int8"),
    "vww_96_float": (7.49e6, {"CONV_2D": 14, "DEPTHWISE_CONV_2D": 13}, "float32"),
    "mobilenet_v1_0.25_128_quant": (13.6e6, {"CONV_2D": 15, "DEPTHWISE_CONV_2D": 13}, "uint8"),
    "tf2_mobilenet_v2_1.0_224_ptq": (301e6, {"CONV_2D": 36, "DEPTHWISE_CONV_2D": 17}, "uint8"),
}


@pytest.mark.parametrize("name", THIRD)
def test_third_party_files(shared: Path, name: str) -> None:
    macs, ops, dtype = THIRD[name]
    path = shared / "models" / f"{name}.tflite"
    report = dispatch.model(path)
    assert report.macs == pytest.approx(macs, rel=0.01)
    assert report.inputs[0].dtype == dtype
    assert report.quantized == (dtype != "float32")
    assert {kind: report.ops.get(kind) for kind in ops} == ops or name.startswith("tf2")
    found = {(use.engine, use.provider): use for use in report.engines if use.version}
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(model_path=str(path))
    details = interpreter.get_input_details()[0]
    assert report.inputs[0].shape == tuple(details["shape"])
    assert (report.inputs[0].scale or 0, report.inputs[0].zero_point or 0) == pytest.approx(details["quantization"])
    for use in found.values():
        assert use.trouble is None
        assert sum(sum(each.values()) for each in use.runs.values()) == sum(report.ops.values())
    assert dict(found["litert", "builtin"].runs["builtin"]) == dict(report.ops)


# What engines would run where.


def test_where_onnxruntime_runs_what(tmp_path: Path) -> None:
    report = dispatch.model(write(tmp_path / "a.bin", model_files.int8_onnx(left_float=True).SerializeToString()))
    (use,) = (use for use in report.engines if use.provider == "CPUExecutionProvider")
    assert set(use.runs) == {"CPUExecutionProvider"}
    assert use.runs["CPUExecutionProvider"]["Elu"] == 1
    assert use.kernels["QLinearConv"] == 1  # fused
    assert "Relu" not in use.kernels


def test_where_litert_runs_what(tmp_path: Path) -> None:
    report = dispatch.model(write(tmp_path / "a.bin", model_files.int8_tflite()))
    uses = {use.provider: use for use in report.engines if use.engine == "litert"}
    assert dict(uses["builtin"].runs) == {"builtin": dict(report.ops)}
    assert uses["builtin"].partitions == 0
    assert uses["XNNPACK"].partitions == 1
    assert uses["XNNPACK"].runs["XNNPACK"]["CONV_2D"] == 1


def test_an_engine_that_refuses_the_file_is_told(tmp_path: Path) -> None:
    report = dispatch.model(write(tmp_path / "a.tflite", model_files.int8_tflite(last=0)))  # ADD of one input
    uses = [use for use in report.engines if use.engine == "litert"]
    assert {use.provider for use in uses} == {"XNNPACK", "builtin"}
    assert all(use.trouble is not None and use.trouble.startswith("cannot load it: ") for use in uses)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("kill -SEGV $$", "crashed (SIGSEGV)"),
        ("echo oops >&2; exit 3", "failed (3): oops"),
        ("exec sleep 60", "did not finish within 0.2 s"),
    ],
)
def test_a_process_that_dies_or_hangs_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    model = write(tmp_path / "a.onnx", model_files.float_onnx().SerializeToString())
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(_worker, "SECONDS", 0.2)
    with pytest.raises(InputError, match=re.escape(said)):
        dispatch.model(model)
    (use,) = dispatch._uses(["onnxruntime"], model)
    assert use.trouble == f"while loading this file, it {said}"


def changed(operator: int, side: str, ports: list[int]) -> bytes:
    """`int8_tflite` with other inputs or outputs of one operator."""
    model = Table(model_files.int8_tflite()).model
    setattr(model.subgraphs[0].operators[operator], side, ports)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_a_file_that_crashes_litert(tmp_path: Path) -> None:
    """Found by changing bytes: a result that overwrites its operand."""
    report = dispatch.model(write(tmp_path / "a.tflite", changed(3, "outputs", [8])))
    (use,) = (use for use in report.engines if use.engine == "litert")
    assert use.trouble == "while loading this file, it crashed (SIGABRT)"


def test_a_convolution_without_weights(tmp_path: Path) -> None:
    """Found by changing bytes: LiteRT dies of it."""
    with pytest.raises(InputError, match=r"damaged.*CONV_2D conv lacks an input"):
        dispatch.model(write(tmp_path / "a.tflite", changed(0, "inputs", [0, -1, 2])))


# The front door.

KEYS = (
    "file format bytes sha256 versions inputs outputs ops quantized float_ops macs not_counted parameters "
    "bytes_by_type peak_bytes peak_at metadata notes engines"
)
"""Scripts read these."""


def test_text_and_json(tmp_path: Path) -> None:
    path = write(tmp_path / "net", model_files.int8_onnx(left_float=True).SerializeToString())  # no suffix
    text = edgekit("inspect", path).stdout
    assert "float ops   1 in a quantized file\n            Elu elu" in text
    assert "peak, estimated" in text
    table = json.loads(edgekit("inspect", path, "--json").stdout)
    report = file_report.from_dict(table)
    assert report.float_ops == ("Elu elu",)
    assert json.loads(json.dumps(file_report.as_dict(report))) == table
    assert " ".join(table) == KEYS
    assert " ".join(table["inputs"][0]) == "name shape dtype scale zero_point"
    assert " ".join(table["engines"][0]) == "engine version provider runs kernels partitions trouble"


WITHOUT_TORCH = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "pydantic", *sys.argv[2:]}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
from pathlib import Path
from edgekit.deploy import bundle as deploy
from edgekit.errors import InputError
from edgekit.inspect.readers import onnx, tflite
data = Path(sys.argv[1]).read_bytes()
try:
    print((tflite if tflite.matches(data) else onnx).inspect(data, "f").macs)
except InputError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("kind", "missing", "said"),
    [
        ("onnx", [], str(model_files.MACS)),
        ("tflite", ["onnx"], str(model_files.MACS)),
        ("onnx", ["onnx"], "reading .onnx files needs onnx, which is not installed: pip install"),
        (
            "tflite",
            ["ai_edge_litert"],
            "reading .tflite files needs ai_edge_litert, which is not installed: pip install",
        ),
    ],
)
def test_without_torch(tmp_path: Path, kind: str, missing: list[str], said: str) -> None:
    data = model_files.float_onnx().SerializeToString() if kind == "onnx" else model_files.int8_tflite()
    words = [sys.executable, "-c", WITHOUT_TORCH, str(write(tmp_path / "net", data)), *missing]
    answer = subprocess.run(words, capture_output=True, text=True, check=True, env=environment())
    assert answer.stdout.startswith(said)


# Bad input: one line, exit 2.


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"hello\n", "its content is neither an edgekit bundle nor an .onnx, .tflite or .pte model"),
        (b"\x08\x0a", "damaged, or not a .onnx file: graph, outputs or opset are missing"),
        (b"\0\0\0\0TFL3", "not an intact .tflite file"),
        (b"PK\x03\x04" + bytes(40), "not a sound bundle"),
        (model_files.float_onnx().SerializeToString()[:400], "not an intact .onnx file"),
        (model_files.int8_tflite()[:500], "not an intact .tflite file"),
    ],
    ids=["empty", "text", "bare onnx", "bare tflite", "zip", "cut onnx", "cut tflite"],
)
def test_bad_files(tmp_path: Path, data: bytes, said: str) -> None:
    assert said in complaint("inspect", write(tmp_path / "file", data), code=2)


def test_no_such_file(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in complaint("inspect", tmp_path / "none.onnx", code=2)
    assert "cannot be read: Is a directory" in complaint("inspect", tmp_path, code=2)


def test_what_does_not_fit_together_is_refused() -> None:
    model = model_files.float_onnx()
    model.graph.node[0].input[0] = "nobody"
    with pytest.raises(ValueError, match='no operator produces "nobody"'):
        onnx_format.inspect(model.SerializeToString(), "f")


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A sound file with bytes changed, words overwritten, pieces missing."""
    data = bytearray(draw(st.sampled_from(SOUND)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 4)))
        how = draw(st.sampled_from(("flip", "word", "cut", "drop")))
        if how == "flip" and data:
            data[at] ^= draw(st.integers(1, 255))
        elif how == "word":
            words = st.sampled_from((0, 1, 2**31 - 1, 2**31, 2**32 - 1, len(data)))
            data[at // 4 * 4 : at // 4 * 4 + 4] = draw(words).to_bytes(4, "little")
        elif how == "cut":
            del data[at:]
        else:
            del data[at : at + draw(st.integers(1, 40))]
    return bytes(data)


SOUND = (
    model_files.float_onnx().SerializeToString(),
    model_files.int8_onnx(left_float=True).SerializeToString(),
    model_files.int8_tflite(),
)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(damaged())
def test_damaged_files_give_a_report_or_an_exception(data: bytes) -> None:
    """No crash, no endless loop; the process around it makes one line of the exception."""
    for name, module in (("onnx", onnx_format), ("tflite", tflite_format)):
        if module.matches(data):
            try:
                report = READ[name](data, "f")
            except (MemoryError, RecursionError):  # too much of either is a crash to come
                raise
            except Exception:  # of any kind, as `inspect` says: the process around it makes one line of it
                continue
            assert report.macs >= 0
            assert report.peak_bytes >= 0
            assert file_report.text(file_report.from_dict(json.loads(json.dumps(file_report.as_dict(report)))))


@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.too_slow])
@given(damaged())
def test_damaged_files_through_the_workers(data: bytes) -> None:
    """With the engines, which crash where they like."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "file", data)
        message = ""
        try:
            report = dispatch.model(path)
        except InputError as error:
            message = str(error)
        else:
            assert "Traceback" not in file_report.text(report)
        assert "\n" not in message


def test_a_cycle_is_no_endless_loop() -> None:
    model = model_files.float_onnx()
    model.graph.node[0].input[0] = "pool"
    path_or_error: object
    try:
        path_or_error = onnx_format.inspect(model.SerializeToString(), "f")
    except Exception as error:
        path_or_error = error
    assert path_or_error is not None


def test_functions_of_the_model_are_looked_into() -> None:
    """A convolution inside of a function counts."""
    model = model_files.float_onnx()
    body = [onnx.helper.make_node("Conv", ["a", "b", "c"], ["d"], pads=[1, 1, 1, 1])]
    opset = [onnx.helper.make_opsetid("", 20)]
    model.functions.append(onnx.helper.make_function("mine", "Mine", ["a", "b", "c"], ["d"], body, opset))
    model.opset_import.append(onnx.helper.make_opsetid("mine", 1))
    node = model.graph.node[0]
    node.op_type, node.domain = "Mine", "mine"
    del node.attribute[:]
    assert onnx_format.inspect(model.SerializeToString(), "f").macs == model_files.MACS


# Bundles.


def test_bundle(tmp_path: Path) -> None:
    path = model_files.bundled(tmp_path / "hand.edgekit")
    table = json.loads(edgekit("inspect", path, "--json").stdout)
    assert (table["format"], table["name"], table["labels"]) == ("bundle", "Hand-made.v1", 5)
    with zipfile.ZipFile(path) as file:
        assert table["digest"] == hashlib.sha256(file.read("manifest.json")).hexdigest()
        models = {name: file.read(name) for name in file.namelist() if name.startswith("models/")}
    assert table["signed_by"] is None
    assert [each["id"] for each in table["artifacts"]] == ["onnx-int8", "tflite-int8"]
    for each in table["artifacts"]:
        data = models[each["says"]["file"]]
        assert each["file"]["sha256"] == hashlib.sha256(data).hexdigest()
        alone = READ[each["file"]["format"]](data, each["file"]["file"])
        assert each["file"]["macs"] == alone.macs
        assert any(use["version"] for use in each["file"]["engines"])
    onnx_file, tflite_file = (each["file"] for each in table["artifacts"])
    assert tflite_file["notes"] == []
    assert onnx_file["notes"] == ["the manifest gives the output as float32 (1, 5), but the file differs"]
    text = bundle_format.text(bundle_format.inspect(path, engines=False))
    assert "signature   none" in text
    assert "ship        host: tflite-int8, litert: fastest that passed" in text
    assert "provenance  seed: 7" in text
    assert "[tflite-int8]\n" in text


def test_signed_bundle(tmp_path: Path) -> None:
    path = model_files.bundled(tmp_path / "hand.edgekit")
    edgekit("keygen", "--out", tmp_path / "my")
    edgekit("sign", path, "--key", tmp_path / "my.key")
    report = bundle_format.inspect(path, engines=False)
    assert report.signed_by is not None
    assert report.signed_by in (tmp_path / "my.pub").read_text() or len(report.signed_by) == 44
    assert f"signature   valid, by {report.signed_by}" in bundle_format.text(report)


def test_damaged_bundle(tmp_path: Path) -> None:
    path = model_files.bundled(tmp_path / "hand.edgekit")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert "not a sound bundle" in complaint("inspect", path, code=2)


def test_a_bundle_whose_model_is_damaged(tmp_path: Path) -> None:
    """Its hashes hold; it was packed so."""
    path = tmp_path / "small.edgekit"
    contents = deploy.Contents(small_bundle.manifest(), {"labels.txt": b"0\n1\n", "model.tflite": b"model"})
    path.write_bytes(archive.canonical(deploy.seal(contents)))
    said = complaint("inspect", path, code=2)
    assert f"{path}: model.tflite: not an intact .tflite file (no TFL3 at its start)" in said
