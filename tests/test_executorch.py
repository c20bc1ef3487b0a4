from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from edgekit import runtime
from edgekit.errors import InputError, Shortfall
from edgekit.export import chatter, executorch_graph
from edgekit.export.formats import executorch as exporter
from edgekit.graph import exported_program, integer_arithmetic
from edgekit.inspect import dispatch
from edgekit.lower import portable
from edgekit.pipeline.stages import bundle
from edgekit.profile.operators import family
from edgekit.runtime import pte, trace
from edgekit.runtime.engines import executorch as engine
from edgekit.runtime.errors import RuntimeFault
from edgekit.types import Artifact
from tests import nets
from tests.support import TINY, complaint
from tests.test_faults import without

pytest.importorskip(engine.MODULE.partition(".")[0] + ".exir", reason="executorch is not installed")


class Net(nn.Module):
    """What ExecuTorch's rules leave in float (a sigmoid, a clamped sum, a mean), and a foreign operator."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nets.conv(3, 8, 3, nn.Hardswish, stride=2)
        self.gate = nets.Gate(8, nn.Sigmoid)
        self.up = nn.Upsample(scale_factor=2)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.up(self.gate(self.stem(x))).mean((2, 3)))
        return result


FLOAT = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU6(), nets.head(4)).eval()


@dataclass(frozen=True)
class Made:
    """The int8 file of `Net`; and `FLOAT`, lowered."""

    graph: GraphModule
    lowered: dict[str, Any]
    folder: Path
    int8: Artifact
    refusal: str
    """What becomes of the int8 file where nothing may be float."""

    @property
    def path(self) -> Path:
        return self.folder / self.int8.path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("executorch")
    torch.manual_seed(0)
    module = nets.settled(Net())
    graph = nets.quantize(module)
    with chatter.into(folder / "log"), torch.no_grad():
        lowered = {
            "int8": executorch_graph.lower(graph, nets.SIZE),
            "fp32": executorch_graph.lower(portable.module(FLOAT, nets.SIZE), nets.SIZE),
        }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executorch_graph, "lower", lambda *_: lowered["int8"])
        with pytest.raises(Shortfall) as refused:
            exporter.export(graph, nets.SIZE, "int8", folder)
        assert not list(folder.glob("*.pte"))
        int8 = exporter.export(graph, nets.SIZE, "int8", folder, keep_float=None)
    return Made(graph, lowered, folder, int8, str(refused.value))


def test_export_names_operator_and_layer_that_xnnpack_does_not_take(made: Made) -> None:
    assert made.refusal.startswith("executorch-int8: ")
    assert "would compute in float in an integer file: " in made.refusal
    assert " in up (outside of XNNPACK's delegate)" in made.refusal
    assert 'set quantize.float_operators = "allow", add up to quantize.keep_float' in made.refusal


def test_delegate_computes_all_else_in_integers(made: Made) -> None:
    found = pte.contents(made.path.read_bytes(), "x")
    assert found.delegates == ("XnnpackBackend", "XnnpackBackend")  # before and after
    assert found.operators
    assert all(name.startswith("aten::") for name in found.operators)
    assert {kind for kind, real in found.kernels if real} == {"Convert"}  # on the way out of each
    assert "Sigmoid" in {kind for kind, _ in found.kernels}
    assert made.int8.float_ops == len(made.int8.float_op_names) > 0
    assert {name.split()[1] for name in made.int8.float_op_names} == {"up"}
    assert (made.int8.id, made.int8.format, made.int8.path) == ("executorch-int8", "executorch", "model-int8.pte")
    assert made.int8.output.shape == (1, 10)


def test_int8_file_computes_the_integers_of_the_graph(made: Made) -> None:
    exact = integer_arithmetic.integer_graph(made.graph)
    step = exported_program.output_scale(made.graph)
    assert step is not None
    session = engine.load(str(made.path))
    for image in nets.images(8, seed=3):
        with torch.no_grad():
            wanted = exact(image[None]).numpy()
        steps = np.abs(session.run(image[None].numpy()) - wanted) / step
        assert np.rint(steps).max() <= 1
    session.close()


def test_float_file_computes_what_the_network_does(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executorch_graph, "lower", lambda *_: made.lowered["fp32"])
    artifact = exporter.export(FLOAT, nets.SIZE, "fp32", tmp_path)
    assert artifact.float_op_names == ()
    session = engine.load((tmp_path / artifact.path).read_bytes())
    x = nets.images(1, seed=4)
    with torch.no_grad():
        np.testing.assert_allclose(session.run(x.numpy()), FLOAT(x).numpy(), atol=1e-4)
    session.close()


def test_export_refuses_precisions_that_xnnpack_does_not_have(made: Made, tmp_path: Path) -> None:
    for precision in ("fp16", "weight_only", "dynamic", "int16x8"):
        with pytest.raises(Shortfall, match=f"executorch-{precision}: XNNPACK.*{precision} is a precision of"):
            exporter.export(made.graph, nets.SIZE, precision, tmp_path)


def test_threads_are_those_asked_for_and_one_number_for_the_process(made: Made) -> None:
    session = engine.load(str(made.path), threads=2)
    with pytest.raises(RuntimeFault, match=r"threads = 1 was asked for, but .* has 2; an open model"):
        engine.load(str(made.path), threads=1)
    session.close()
    engine.load(str(made.path), threads=1).close()


def test_outputs_stay_and_closed_sessions_say_so(made: Made) -> None:
    session = engine.load(str(made.path))
    x = nets.images(2, seed=5).numpy()
    first = session.run(x[:1])
    kept = first.copy()
    x.flags.writeable = False
    assert not np.array_equal(session.run(x[1:]), kept)
    np.testing.assert_array_equal(first, kept)
    for wrong in (x, x[:1].astype(np.float64)):
        with pytest.raises(RuntimeFault, match="inference failed: the input is float"):
            session.run(wrong)
    session.close()
    with pytest.raises(RuntimeFault, match="the model is closed"):
        session.run(x[:1])


def test_load_says_what_is_wrong_with_a_file(made: Made, tmp_path: Path) -> None:
    data = made.path.read_bytes()
    for damaged, why in (
        (b"", "no ET12 at its start"),
        (b"neither one nor the other" * 50, "no ET12 at its start"),
        (data[:500], "an offset leads out of the file"),
        (data[:-1], f"{len(data)} bytes are announced, {len(data) - 1} are there"),
        (data[:4] + b"ET13" + data[8:], "a .pte file of format ET13, and this edgekit reads ET12: export it again"),
        (data.replace(b"XnnpackBackend", b"OtherBackend00"), "exported for OtherBackend00, which this build"),
    ):
        with pytest.raises(RuntimeFault) as caught:
            engine.load(damaged)
        assert why in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(RuntimeFault, match="cannot be loaded: No such file"):
        engine.load(str(tmp_path / "none.pte"))
    with pytest.raises(RuntimeFault, match="portable was asked for, but the file was exported for XNNPACK"):
        engine.load(str(made.path), provider="portable")
    with pytest.raises(RuntimeFault, match=r"no such provider of this engine \(choices: cpu, XNNPACK, portable\)"):
        engine.load(str(made.path), provider="cuda")


def test_damage_never_ends_in_anything_but_a_fault(made: Made) -> None:
    data, random = made.path.read_bytes(), np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(data)
        changed[random.integers(0, min(len(data), 20_000))] = random.integers(0, 256)
        try:
            pte.check(bytes(changed), "x")
        except RuntimeFault as fault:
            assert str(fault).startswith("x: ")  # noqa: PT017 - most changes are none to the tables


def test_operators_are_timed_by_executorch_itself(made: Made) -> None:
    answer = trace.trace(str(made.path), "executorch", seconds=0.1)
    kinds = {row["op"].partition(" (")[0] for row in answer["rows"]}
    assert {"Convolution", "Multiply", "Convert"} <= kinds
    assert (answer["provider"], answer["method"]) == ("XNNPACK", "engine profiler")
    assert sum(row["ms"] for row in answer["rows"]) <= answer["total_ms"] * 1.001
    assert family("Convert (NC)") == "conversions"


def test_inspect_counts_what_is_inside_of_the_delegate(made: Made, tmp_path: Path) -> None:
    report = dispatch.model(made.path)
    assert (report.format, report.quantized) == ("executorch", True)
    assert report.float_ops == tuple(
        f"{name} (outside)" for name in pte.contents(made.path.read_bytes(), "x").operators
    )
    assert (report.inputs[0].shape, report.outputs[0].shape) == ((1, 3, nets.SIZE, nets.SIZE), (1, 10))
    assert report.notes[0].startswith("2 calls of a delegate (XnnpackBackend), ")
    assert [(use.engine, use.provider, use.partitions) for use in report.engines] == [("executorch", "XNNPACK", 2)]
    (tmp_path / "cut.pte").write_bytes(made.path.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"cut\.pte: not an intact \.pte file"):
        dispatch.model(tmp_path / "cut.pte")


def test_runtime_predicts_from_a_manifest(made: Made, tmp_path: Path) -> None:
    shutil.copy(made.path, tmp_path)
    port = {"dtype": "float32", "scale": None, "zero_point": None}
    manifest = {
        "format": "edgekit-bundle",
        "version": "1.2",
        "name": "net",
        "task": "classification",
        "preprocessing": {
            "kind": "image", "color": "rgb", "height": 32, "width": 32, "resize": "stretch",
            "interpolation": "bilinear", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
        },
        "postprocessing": {"activation": "softmax"},
        "artifacts": [
            {
                "id": "executorch-int8", "format": "executorch", "file": "model-int8.pte",
                "input": {"name": "input", "shape": [1, 3, 32, 32], "layout": "NCHW", **port},
                "output": {"name": "output", "shape": [1, 10], "layout": "NC", **port},
            }
        ],
    }  # fmt: skip
    (tmp_path / "net.json").write_text(json.dumps(manifest))
    with runtime.load(tmp_path / "net.json") as model:
        assert (model.info["engine"], model.info["provider"]) == ("executorch", "XNNPACK")
        assert 0 <= model(np.zeros((32, 32, 3), np.uint8)).score <= 1


def test_only_a_bundle_with_such_a_file_asks_for_a_newer_runtime() -> None:
    plain = {"preprocessing": {"resize": "crop", "color": "rgb"}, "postprocessing": {"activation": "softmax"}}
    assert bundle._version({**plain, "artifacts": [{"format": "onnx"}, {"format": "tflite"}]}) == "1.0"
    assert bundle._version({**plain, "artifacts": [{"format": "onnx"}, {"format": "executorch"}]}) == "1.2"


def test_run_gives_the_pip_command_before_it_trains(tmp_path: Path) -> None:
    formats = 'export.formats=["tflite", "executorch"]'
    message = complaint("run", *TINY, "--set", formats, code=2, cwd=tmp_path, env=without("executorch", tmp_path))
    assert message.endswith(
        "the export stage needs executorch, which is not installed: pip install 'edgekit[executorch]'"
    )
    assert not list(tmp_path.glob("runs/*/2-train"))
