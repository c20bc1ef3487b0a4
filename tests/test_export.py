from __future__ import annotations

import copy
import hashlib
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional

import edgekit
from edgekit import choices
from edgekit.config.recipe import QuantizeSection
from edgekit.errors import Shortfall
from edgekit.export import float_operators
from edgekit.export.formats import onnx as to_onnx
from edgekit.export.formats import tflite as to_tflite
from edgekit.graph import exported_program, integer_arithmetic, ops
from edgekit.graph.tflite_table import Table
from edgekit.quantize import ptq
from edgekit.runtime.engines import litert
from edgekit.runtime.engines import onnxruntime as ort
from edgekit.types import Artifact, TensorSpec
from edgekit.verify import files as verify
from tests import nets, support

IDS = ("onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8")
Floats = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> nets.Compressed:
    return nets.compressed(tmp_path_factory)


def infer(artifact: Artifact, session: Any, images: Tensor) -> Floats:
    return np.concatenate([verify._infer(artifact, session, image.unsqueeze(0).numpy()) for image in images])


# --- the files


@pytest.mark.parametrize("id_", IDS)
def test_export_describes_the_file_it_wrote(every: nets.Compressed, id_: str) -> None:
    made = every.artifacts[id_]
    data = (every.folder / made.path).read_bytes()
    assert (made.id, f"{made.format}-{made.precision}") == (id_, id_)
    assert made.path == f"model-{made.precision}.{made.format}"
    assert (made.sha256, made.bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    session = (ort if made.format == "onnx" else litert).load(str(every.folder / made.path))
    for spec, port in ((made.input, session.input), (made.output, session.output)):
        assert (spec.name, spec.shape, spec.dtype) == (port.name, port.shape, port.dtype)
        assert (spec.scale, spec.zero_point) == pytest.approx((port.scale, port.zero_point))
    assert made.input.layout == ("NCHW" if made.format == "onnx" else "NHWC")


def test_export_leaves_nothing_but_files_and_log(every: nets.Compressed) -> None:
    expected = {made.path for made in every.artifacts.values()} | {"export.log"}
    besides = {".done", ".lock", "artifacts.json", "quantized.pt2"}  # by the tests that share the folder
    assert {path.name for path in every.folder.iterdir()} - besides == expected


def test_export_gives_float32_ports_in_onnx(every: nets.Compressed) -> None:
    for precision in ("fp32", "int8"):
        made = every.artifacts[f"onnx-{precision}"]
        assert made.input == TensorSpec("input", (1, 3, nets.SIZE, nets.SIZE), "float32", "NCHW")
        assert made.output == TensorSpec("logits", (1, 10), "float32", "NC")


def test_export_gives_int8_ports_on_the_grids_of_the_graph_in_tflite(every: nets.Compressed) -> None:
    plan, made = exported_program.plan(every.graph), every.artifacts["tflite-int8"]
    for spec, tensor in ((made.input, plan[0]), (made.output, plan[-1])):
        assert spec.dtype == "int8"
        assert spec.scale == float(np.float32(tensor.scale))
        assert spec.zero_point == tensor.zero_point


def test_export_leaves_no_float_operator_in_int8(every: nets.Compressed) -> None:
    for format_ in ("onnx", "tflite"):
        assert (every.artifacts[f"{format_}-int8"].float_ops, every.artifacts[f"{format_}-int8"].float_op_names) == (
            0,
            (),
        )
        assert every.artifacts[f"{format_}-fp32"].float_ops > 20
        assert every.artifacts[f"{format_}-fp32"].float_op_names == ()


def test_export_lists_the_rewrites_of_the_file(every: nets.Compressed) -> None:
    assert every.artifacts["onnx-int8"].lowered == ("global_average_pool", "byte_clip", "uint8_activations")
    assert every.artifacts["onnx-fp32"].lowered == ("global_average_pool",)


def test_export_makes_int8_smaller_than_half(every: nets.Compressed, tmp_path: Path) -> None:
    module = nets.settled(nn.Sequential(nn.Flatten(), nn.Linear(3 * nets.SIZE**2, 32), nn.ReLU(), nn.Linear(32, 10)))
    made = nets.export(module, nets.quantize(module), tmp_path, ["onnx"]).artifacts
    assert made["onnx-int8"].bytes < 0.3 * made["onnx-fp32"].bytes


@pytest.mark.parametrize("format_", ["onnx", "tflite"])
def test_float_files_equal_the_float_network(every: nets.Compressed, format_: str) -> None:
    made, images = every.artifacts[f"{format_}-fp32"], nets.images(5, seed=11)
    session = (ort if format_ == "onnx" else litert).load(str(every.folder / made.path))
    np.testing.assert_allclose(
        infer(made, session, images), nets.run(every.module, images).numpy(), rtol=1e-4, atol=1e-5
    )


# --- scales, zero points and weights in the files are those of the graph


def close(a: set[tuple[float, int]], b: set[tuple[float, int]]) -> bool:
    return {(np.float32(scale), zero) for scale, zero in a} == {(np.float32(scale), zero) for scale, zero in b}


def integer_weights(graph: GraphModule) -> list[npt.NDArray[np.int8]]:
    """round(w / s) of each weighted operator, in torch's layout."""
    named: dict[str, Any] = {**dict(graph.named_parameters()), **dict(graph.named_buffers())}
    found = []
    for node in graph.graph.nodes:
        if node.target is ops.WEIGHT_QUANTIZE:
            weight, scales = (named[holder.target].detach().double().numpy() for holder in node.args[:2])
            found.append(np.rint(weight / scales.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.int8))
    return found


def test_onnx_holds_the_grids_and_the_weights_of_the_graph(every: nets.Compressed) -> None:
    model = onnx.load(str(every.folder / "model-int8.onnx"))
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    found, weights = set(), []
    for node in model.graph.node:
        zero = constants[node.input[2]] if node.op_type in ("QuantizeLinear", "DequantizeLinear") else None
        if zero is not None and zero.dtype == np.uint8:
            found.add((float(constants[node.input[1]]), int(zero) - 128))
        elif zero is not None:
            weights.append(constants[node.input[0]])
            assert (weights[-1].dtype, zero.any()) == (np.int8, False)
    assert close(found, {(tensor.scale, tensor.zero_point) for tensor in exported_program.plan(every.graph)})
    expected = integer_weights(every.graph)
    assert sorted(w.tobytes() for w in weights) == sorted(w.tobytes() for w in expected)


def test_tflite_holds_the_grids_and_the_weights_of_the_graph(every: nets.Compressed) -> None:
    table = Table((every.folder / "model-int8.tflite").read_bytes())
    kernels, found, weights = set(), set(), []
    for operator in table.graph.operators:
        code = table.model.operatorCodes[operator.opcodeIndex]
        kind = table.operators[max(code.builtinCode, code.deprecatedBuiltinCode)]
        if kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            tensor = table.graph.tensors[operator.inputs[1]]
            data = np.array(table.model.buffers[tensor.buffer].data, np.uint8).view(np.int8).reshape(tensor.shape)
            order = {"CONV_2D": (0, 3, 1, 2), "DEPTHWISE_CONV_2D": (3, 0, 1, 2), "FULLY_CONNECTED": (0, 1)}[kind]
            weights.append(np.ascontiguousarray(data.transpose(order)))
            kernels.add(int(operator.inputs[1]))
    for index, tensor in enumerate(table.graph.tensors):
        if table.types[tensor.type] == "INT8" and index not in kernels:
            assert len(tensor.quantization.scale) == 1
            found.add((float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])))
    assert close(found, {(tensor.scale, tensor.zero_point) for tensor in exported_program.plan(every.graph)})
    expected = integer_weights(every.graph)
    assert sorted(w.tobytes() for w in weights) == sorted(w.tobytes() for w in expected)


# --- reproducible and anonymous

AGAIN = """
import sys
from pathlib import Path
from edgekit import choices
from edgekit.graph import exported_program
from tests import nets
folder = Path(sys.argv[1])
module = nets.settled(nets.Every())
nets.export(module, exported_program.load(folder / "quantized.pt2"), folder)
"""


def test_export_writes_the_same_bytes_in_another_process(every: nets.Compressed, tmp_path: Path) -> None:
    shutil.copy(every.folder / nets.PROGRAM, tmp_path)
    environment = support.environment(PYTHONHASHSEED="4242", PYTHONPATH=str(support.ROOT))
    command = [sys.executable, "-c", AGAIN, str(tmp_path)]
    answer = subprocess.run(command, env=environment, check=True, cwd=tmp_path, capture_output=True, text=True)
    assert answer.stdout == ""  # converters talk into export.log
    for made in every.artifacts.values():
        assert (tmp_path / made.path).read_bytes() == (every.folder / made.path).read_bytes(), made.id


@pytest.mark.parametrize("id_", IDS)
def test_export_writes_no_path_of_the_machine(every: nets.Compressed, id_: str) -> None:
    data = (every.folder / every.artifacts[id_].path).read_bytes()
    here = [
        str(Path(edgekit.__file__).parents[1]),
        str(every.folder),
        sys.prefix,
        "site-packages",
        ".py",
        os.path.expanduser("~") + "/",
    ]
    assert not [path for path in here if path.encode() in data]


# --- layers that stay float, operators that no format takes


@pytest.fixture(scope="module")
def partly_float(tmp_path_factory: pytest.TempPathFactory) -> nets.Compressed:
    """An int8 net with float convolutions between integer ones: a dense one, and a depthwise one with padding."""
    module = nets.settled(
        nets.Net(
            lambda net, x: net.head(net.last(net.kept(net.stem(x)))),
            stem=nets.conv(3, 8),
            kept=nn.Sequential(nets.conv(8, 8, 3, nn.ReLU6, stride=2, groups=8), nn.Conv2d(8, 8, 1)),
            last=nets.conv(8, 8, 1),
            head=nets.head(8),
        )
    )
    graph, folder = nets.quantize(module, keep_float=["kept.0", "last"]), tmp_path_factory.mktemp("partly")
    made = [exporter.export(graph, nets.SIZE, "int8", folder) for exporter in (to_onnx, to_tflite)]
    return nets.Compressed(module, graph, folder, {artifact.id: artifact for artifact in made})


def test_export_counts_the_layers_that_stay_float(partly_float: nets.Compressed) -> None:
    kinds = {
        id_: sorted(name.split()[0] for name in made.float_op_names) for id_, made in partly_float.artifacts.items()
    }
    assert kinds == {"onnx-int8": ["Conv", "Conv"], "tflite-int8": ["CONV_2D", "DEPTHWISE_CONV_2D"]}
    assert all(made.float_ops == 2 for made in partly_float.artifacts.values())


@pytest.mark.parametrize("format_", ["onnx", "tflite"])
def test_export_keeps_layers_in_float_that_engines_would_quantize(partly_float: nets.Compressed, format_: str) -> None:
    """litert-torch and ONNX Runtime both quantize float weights between Q/DQ pairs when nobody stops them."""
    images, made = nets.images(6, seed=12), partly_float.artifacts[f"{format_}-int8"]
    expected = nets.run(integer_arithmetic.integer_graph(partly_float.graph), images).numpy()
    step = exported_program.output_scale(partly_float.graph)
    assert step is not None
    session = (ort if format_ == "onnx" else litert).load(str(partly_float.folder / made.path))
    got = infer(made, session, images)
    assert np.abs(got - expected).max() < 1.5 * step
    assert (np.abs(got - expected) < 0.5 * step).mean() > 0.95


class Unknown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act, self.head = nets.conv(3, 8), nn.ELU(), nets.head(8)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.act(self.stem(x)))
        return logits


def test_export_refuses_float_operators_that_nobody_asked_for(tmp_path: Path) -> None:
    graph = nets.quantize(nets.settled(Unknown()))
    for exporter, id_ in ((to_onnx, "onnx-int8"), (to_tflite, "tflite-int8")):
        with pytest.raises(
            Shortfall,
            match=rf'^{id_}: 1 operator would .*: elu in act; set .* = "allow", add act to quantize.keep_float',
        ):
            exporter.export(graph, nets.SIZE, "int8", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"export.log"}
    made = to_onnx.export(graph, nets.SIZE, "int8", tmp_path, keep_float=["act"])
    assert [name.split()[0] for name in made.float_op_names] == ["Elu"]


def test_export_refuses_float_operators_of_the_converters_making(every: nets.Compressed) -> None:
    with pytest.raises(Shortfall, match=r"^tflite-int8: 2 operators would compute in float .*: COS a, EXP b; set"):
        float_operators.check("tflite-int8", every.graph, ["COS a", "EXP b"], ())
    float_operators.check("tflite-int8", every.graph, [], ())


def test_export_to_tflite_refuses_kept_layers_beside_cosine_and_sine(tmp_path: Path) -> None:
    module = nets.settled(nn.Sequential(nets.conv(3, 8), nets.conv(8, 8), nets.head(8)))
    graph = nets.quantize(module, keep_float=["1"])
    output = next(node for node in graph.graph.nodes if node.op == "output")
    for wave in (torch.ops.aten.sin.default, torch.ops.aten.cos.default):
        (last,) = output.all_input_nodes
        with graph.graph.inserting_before(output):
            output.replace_input_with(last, graph.graph.call_function(wave, (last,)))
    with pytest.raises(Shortfall, match=r"^tflite-int8: the network computes sines and cosines and keeps operators in"):
        to_tflite.export(graph, nets.SIZE, "int8", tmp_path)


class SingularValues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = torch.linalg.svdvals(x[:, 0])
        return values


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("format_", ["onnx", "tflite"])
def test_export_raises_one_line_and_leaves_no_file_when_an_operator_is_unknown(
    format_: str, precision: str, tmp_path: Path
) -> None:
    module = nets.settled(nn.Sequential(nets.conv(3, 3), SingularValues()))
    graph: Any = module if precision == "fp32" else nets.quantize(module)
    with pytest.raises(Shortfall, match=f"^{format_}-{precision}: ") as caught:
        choices.pick("edgekit.export.formats", format_, "export.formats").export(graph, nets.SIZE, precision, tmp_path)
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} <= {"export.log"}


def test_export_raises_one_line_when_the_checker_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(model: onnx.ModelProto) -> int:
        model.graph.node[0].op_type = "NoSuchOperator"
        return 1

    monkeypatch.setattr(to_onnx.REWRITES[0], "apply", spoil)
    with pytest.raises(Shortfall, match=r"^onnx-fp32: torch cannot export this network: .*NoSuchOperator"):
        to_onnx.export(nets.settled(nets.conv(3, 4)), nets.SIZE, "fp32", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"export.log"}


# --- the same integers everywhere


def unoptimised(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def in_engines(made: nets.Compressed, images: Tensor) -> Iterator[tuple[str, Floats]]:
    """Outputs of the int8 files in every engine that has to agree."""
    onnx_file, tflite_file = made.artifacts["onnx-int8"], made.artifacts["tflite-int8"]
    yield "ORT", infer(onnx_file, ort.load(str(made.folder / onnx_file.path)), images)
    plain = unoptimised(made.folder / onnx_file.path)
    yield (
        "ORT, no optimisations",
        np.concatenate([plain.run(None, {"input": i.unsqueeze(0).numpy()})[0] for i in images]),
    )
    session = litert.load(str(made.folder / tflite_file.path), provider="XNNPACK")
    yield "LiteRT, XNNPACK", infer(tflite_file, session, images)


def assert_same_integers(made: nets.Compressed, images: Tensor) -> None:
    step = exported_program.output_scale(made.graph)
    assert step is not None
    expected = np.rint(nets.run(integer_arithmetic.integer_graph(made.graph), images).numpy() / step)
    assert len(np.unique(expected)) > 20
    np.testing.assert_array_equal(np.rint(nets.run(made.graph, images).numpy() / step), expected)
    for engine, got in in_engines(made, images):
        np.testing.assert_allclose(got / step, np.rint(got / step), atol=1e-3, err_msg=engine)
        np.testing.assert_array_equal(np.rint(got / step), expected, err_msg=engine)


def test_every_engine_computes_the_integers_of_torch(every: nets.Compressed) -> None:
    assert_same_integers(every, nets.images(20, seed=13))


def test_litert_without_delegate_agrees_on_the_class(every: nets.Compressed) -> None:
    # Its own kernels round twice, in fixed point: a few steps may differ, a clear decision must not.
    made, images = every.artifacts["tflite-int8"], nets.images(20, seed=13)
    session = litert.load(str(every.folder / made.path), provider="builtin")
    got, expected = (
        infer(made, session, images),
        nets.run(integer_arithmetic.integer_graph(every.graph), images).numpy(),
    )
    step = exported_program.output_scale(every.graph)
    assert step is not None
    first, second = np.sort(expected, 1)[:, :-3:-1].T
    clear = first - second > 4 * step
    assert clear.sum() >= 5
    np.testing.assert_array_equal(got.argmax(1)[clear], expected.argmax(1)[clear])


def lone_clamps(net: Any, x: Tensor) -> Tensor:
    y = net.a(x)
    z = torch.relu(functional.max_pool2d(y, 2)) + functional.relu6(functional.max_pool2d(y, 2) * 0.7)
    logits: Tensor = net.head(torch.clamp(functional.max_pool2d(z, 2), -0.5, 1.5))
    return logits


def branches(net: Any, x: Tensor) -> Tensor:
    y = torch.relu(net.a(x))
    z = (net.b(y) + net.c(y)) + (net.d(y) + y)
    mixed = torch.cat([z, net.b(z)], 1).reshape(-1, 2, 8, nets.SIZE, nets.SIZE).transpose(1, 2).flatten(1, 2)
    logits: Tensor = net.wide(mixed)
    return logits


def pooled(net: Any, x: Tensor) -> Tensor:
    y = net.a(x)
    scaled = y * net.scale + net.shift
    logits: Tensor = net.linear((scaled + scaled).mean((2, 3)) * functional.hardswish(y).mean((-1, -2)))
    return logits


def tensorflow_padding(net: Any, x: Tensor) -> Tensor:
    y = functional.pad(torch.relu(net.a(x)), (0, 1, 0, 1))
    logits: Tensor = net.head(net.e(y))
    return logits


@pytest.mark.parametrize("run", [lone_clamps, branches, pooled, tensorflow_padding])
def test_every_engine_computes_the_integers_of_torch_in_unusual_nets(
    run: Callable[[Any, Tensor], Tensor], tmp_path: Path
) -> None:
    module = nets.settled(
        nets.Net(
            run,
            a=nn.Conv2d(3, 8, 3, padding=1, bias=False),
            b=nn.Conv2d(8, 8, 3, padding=1, groups=2),
            c=nets.conv(8, 8),
            d=nets.conv(8, 8, 1, nn.ReLU6),
            e=nn.Conv2d(8, 8, 3, stride=2),
            head=nets.head(8),
            wide=nets.head(16),
            linear=nn.Linear(8, 10),
            scale=nn.Parameter(torch.linspace(0.5, 2, 8).view(8, 1, 1)),
            shift=nn.Parameter(torch.linspace(-1, 1, 8).view(8, 1, 1)),
        )
    )
    graph = nets.quantize(module)
    made = [
        choices.pick("edgekit.export.formats", f, "").export(copy.deepcopy(graph), nets.SIZE, "int8", tmp_path)
        for f in ("onnx", "tflite")
    ]
    compressed = nets.Compressed(module, graph, tmp_path, {artifact.id: artifact for artifact in made})
    assert_same_integers(compressed, nets.images(10, seed=14))
    exact = nets.run(module, nets.images(10, seed=14))
    error = (nets.run(graph, nets.images(10, seed=14)) - exact).abs().max() / exact.abs().max()
    assert error < 0.15


def test_mobilenetv2_computes_the_same_integers_in_every_engine(shared: Path, tmp_path: Path) -> None:
    import timm
    from PIL import Image
    from safetensors.torch import load_file

    from edgekit.data.transforms import evaluate, levels
    from edgekit.types import InputSpec

    weights = load_file(shared / "weights" / "mobilenetv2_100_imagenet1001.safetensors")
    module = timm.create_model("mobilenetv2_100", num_classes=len(weights["classifier.bias"])).eval()
    module.load_state_dict(weights)
    spec = InputSpec(size=96, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    files = sorted((shared / "data" / "imagenet500").glob("*.jpg"))[:350:50]
    images = torch.stack([torch.from_numpy(evaluate(Image.open(file).convert("RGB"), spec)) for file in files])
    pixels = torch.from_numpy(levels(spec))
    program = ptq.quantize(module, spec.shape, images[:4], pixels, QuantizeSection()).program
    exported_program.save(program, tmp_path / "quantized.pt2")
    graph = exported_program.load(tmp_path / "quantized.pt2")
    made = {}
    for name in ("onnx", "tflite"):
        artifact = choices.pick("edgekit.export.formats", name, "").export(
            copy.deepcopy(graph), spec.shape, "int8", tmp_path
        )
        assert artifact.float_op_names == ()
        made[artifact.id] = artifact
    assert_same_integers(nets.Compressed(module, graph, tmp_path, made), images[4:])


def test_export_folds_tensorflow_padding_into_the_convolutions(tmp_path: Path) -> None:
    def padded(net: Any, x: Tensor) -> Tensor:
        logits: Tensor = net.head(net.second(functional.pad(net.first(functional.pad(x, (0, 1, 0, 1))), (0, 1, 0, 1))))
        return logits

    parts = {"first": nn.Conv2d(3, 8, 3, 2), "second": nn.Conv2d(8, 8, 3, 2, groups=8), "head": nets.head(8)}
    graph = nets.quantize(nets.settled(nets.Net(padded, **parts)))
    batch = nets.images(3, seed=8)
    expected = nets.run(integer_arithmetic.integer_graph(graph), batch).numpy()
    onnx_file = to_onnx.export(copy.deepcopy(graph), nets.SIZE, "int8", tmp_path)
    tflite_file = to_tflite.export(copy.deepcopy(graph), nets.SIZE, "int8", tmp_path)
    assert "conv_padding" in onnx_file.lowered
    assert tflite_file.lowered == ("same_padding",)
    assert "Pad" not in {node.op_type for node in onnx.load(tmp_path / onnx_file.path).graph.node}
    table = Table((tmp_path / tflite_file.path).read_bytes())
    kinds = [table.operators[table.model.operatorCodes[o.opcodeIndex].builtinCode] for o in table.graph.operators]
    assert not {"PAD", "TRANSPOSE"} & set(kinds)
    used = {int(t) for o in table.graph.operators for t in (*o.inputs, *o.outputs)} | {*map(int, table.graph.inputs)}
    left = [
        t for i, t in enumerate(table.graph.tensors) if i not in used and table.model.buffers[t.buffer].data is None
    ]
    assert left  # of what was dropped; microcontrollers would plan room for them
    assert all(math.prod(t.shape) == 1 for t in left)
    for made, engine in ((onnx_file, ort), (tflite_file, litert)):
        got = infer(made, engine.load(str(tmp_path / made.path)), batch)
        assert np.array_equal(got, expected)
