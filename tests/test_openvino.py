"""OpenVINO: the engine itself, the bound that its int8 is held to, and what follows from it."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.config.recipe import VerifySection
from edgekit.console import Console
from edgekit.device.file import Device
from edgekit.errors import Shortfall
from edgekit.runtime import _load, engine_menu, trace
from edgekit.runtime.engines import onnxruntime, openvino
from edgekit.runtime.errors import RuntimeFault
from edgekit.runtime.port import Bound, Port
from edgekit.scores import Accuracy
from edgekit.verdict import rule as verdict
from edgekit.verify import files as verify
from tests import nets, report_sample
from tests.support import ROOT
from tests.test_verify import LABELS, pictures, references

pytestmark = pytest.mark.skipif(not engine_menu.installed(openvino), reason="openvino is not installed")
WEIGHTS = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
IMPORTED = """
import os, sys, threading
seen = []
def watch(event, facts):
    writes = event == "open" and any(mode in str(facts[1]) for mode in "wax+")
    if writes or event == "os.mkdir" or event.startswith(("socket.connect", "socket.getaddrinfo")):
        seen.append((event, str(facts[0])))
sys.addaudithook(watch)
from edgekit.runtime.engines import openvino
openvino.load(sys.argv[1])
print(seen, threading.active_count(), "openvino_telemetry" in sys.modules, os.listdir(os.environ["HOME"]))
"""


def matmul(path: Path, batch: int | str = "batch", **about: Any) -> Path:
    """An ONNX file that multiplies [batch, 12] float32 by WEIGHTS."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "matmul",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 5])],
        [numpy_helper.from_array(WEIGHTS, "w")],
    )
    about = {"opset_imports": [helper.make_opsetid("", 17)], "ir_version": 8, **about}
    onnx.save(helper.make_model(graph, **about), path)
    return path


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> nets.Compressed:
    return nets.compressed(tmp_path_factory)


# --- the engine


@pytest.mark.parametrize("as_bytes", [False, True])
def test_it_multiplies_one_row_or_several(tmp_path: Path, as_bytes: bool) -> None:
    path = matmul(tmp_path / "m.onnx")
    session = openvino.load(path.read_bytes() if as_bytes else str(path))
    assert (session.input, session.output) == (Port("x", (1, 12), "float32"), Port("y", (1, 5), "float32"))
    assert (session.provider, session.placement) == ("CPU", {})
    for rows in (1, 3, 1):
        x = np.random.default_rng(rows).normal(size=(rows, 12)).astype(np.float32)
        x.setflags(write=rows == 3)  # it shares memory only where it may write
        np.testing.assert_allclose(session.run(x), x @ WEIGHTS, rtol=1e-5)


def test_a_fixed_batch_stays_fixed(tmp_path: Path) -> None:
    session = openvino.load(str(matmul(tmp_path / "m.onnx", 2)))
    assert (session.input.shape, session.open_batch) == ((2, 12), False)
    for wrong in (np.zeros((1, 12), np.float32), np.zeros((2, 12)), np.zeros((2, 11), np.float32), np.float32(0)):
        with pytest.raises(RuntimeFault, match=r"inference failed: float32 \(2, 12\) is needed, not float") as caught:
            session.run(np.asarray(wrong))
        assert "\n" not in str(caught.value)
    session.close()
    with pytest.raises(RuntimeFault, match="the model is closed"):
        session.run(np.zeros((2, 12), np.float32))


def test_threads_get_their_own_results(tmp_path: Path) -> None:
    session = openvino.load(str(matmul(tmp_path / "m.onnx")))
    results: dict[int, Any] = {}

    def work(number: int) -> None:
        x = np.full((1, 12), number, np.float32)
        results[number] = [session.run(x) for _ in range(50)]

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for number, rows in results.items():
        for row in rows:
            np.testing.assert_allclose(row, np.full((1, 12), number) @ WEIGHTS, rtol=1e-4, atol=1e-6)


def test_what_cannot_be_run_gets_one_line(tmp_path: Path, every: nets.Compressed) -> None:
    good = str(matmul(tmp_path / "m.onnx"))
    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(b"neither one nor the other" * 50)
    foreign = matmul(tmp_path / "foreign.onnx")
    model = onnx.load(foreign)
    model.graph.node[0].op_type, model.graph.node[0].domain = "Twist", "acme"
    model.opset_import.append(helper.make_opsetid("acme", 1))
    onnx.save(model, foreign)
    tflite = str(every.folder / every.artifacts["tflite-int8"].path)
    cases: list[tuple[tuple[Any, ...], str]] = [
        ((str(garbage),), f"{garbage}: cannot be loaded: Model can't be parsed"),
        (
            (b"garbage", 1, None, "a.edgekit: m.onnx"),
            "a.edgekit: m.onnx: cannot be loaded: Error during import of ONNX",
        ),
        ((str(tmp_path / "none.onnx"),), "none.onnx: cannot be loaded: Could not open the file"),
        ((tflite,), f"{tflite}: cannot be loaded: Model can't be parsed"),
        ((str(foreign),), "foreign.onnx: cannot be loaded: No conversion rule found for operations: acme.Twist"),
        ((good, 4096), "m.onnx: threads 4096 was asked for, but OpenVINO would use "),
        ((good, 1, "cuda"), '"cuda": no such provider of this engine (choices: cpu'),
    ]
    cases += [
        ((good, 1, word), f'"{word}": OpenVINO finds none here (choices: cpu')
        for word in ("gpu", "npu")
        if word.upper() not in openvino.providers()
    ]
    cases += [
        ((good, 1, word), f'"{word}": this CPU does not compute in {word[4:]} (choices: cpu')
        for word in ("cpu-bf16", "cpu-fp16")
        if openvino.WORDS[word] not in openvino.providers()
    ]
    for arguments, message in cases:
        with pytest.raises(RuntimeFault) as caught:
            openvino.load(*arguments)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_importing_it_reports_nothing_to_anybody(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    file = matmul(tmp_path / "m.onnx")
    environment = {"HOME": str(home), "PATH": "", "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", IMPORTED, str(file)]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[] 1 False []"


def test_its_int8_is_within_its_bound_of_exact_engines(every: nets.Compressed) -> None:
    path = str(every.folder / every.artifacts["onnx-int8"].path)
    exact, session = onnxruntime.load(path), openvino.load(path)
    step = references(every)[1].step
    assert step is not None
    away = []
    for seed in range(8):
        x = nets.images(1, seed).numpy()
        away.append(np.abs(session.run(x) - exact.run(x)).max() / step)
    assert openvino.BOUND is not None
    assert max(away) <= openvino.BOUND.steps


def test_its_counters_give_a_time_for_each_layer(every: nets.Compressed) -> None:
    artifact = every.artifacts["onnx-int8"]
    found = trace.trace(str(every.folder / artifact.path), "openvino", seconds=0.1)
    rows = found["rows"]
    assert (found["method"], found["provider"]) == ("engine profiler", "CPU")
    assert sum(row["ms"] for row in rows) <= found["total_ms"] * 1.001
    weighted = {name for name, part in every.module.named_modules() if type(part).__name__ in ("Conv2d", "Linear")}
    named = {row["name"].partition("/")[0] for row in rows if "onvolution" in row["op"] or "Fully" in row["op"]}
    assert weighted & named
    assert named <= weighted | {"logits"}
    assert {row["dtype"] for row in rows} & {"uint8", "int8"}


# --- its own bound


@pytest.mark.parametrize(
    ("agreement", "steps", "images", "wanted"),
    [
        (1.0, 0.0, 100, ""),
        (0.95, 16.4, 100, ""),
        (0.94, 1.0, 100, "94.00% top-1 agreement, the bound of x is 95%"),
        (0.9, 1.0, 10, ""),
        (0.8, 1.0, 10, "80.00% top-1 agreement, the bound of x is 95%"),
        (1.0, 17.0, 100, "outputs up to 17 steps away, the bound of x is 16"),
        (1.0, None, 100, ""),
        (1.0, float("nan"), 100, "outputs up to nan steps away, the bound of x is 16"),
    ],
)
def test_a_bound_says_what_misses_it(agreement: float, steps: float | None, images: int, wanted: str) -> None:
    assert Bound(16, 0.95).missed("x", agreement, steps, images) == wanted


def scored(made: nets.Compressed) -> list[Accuracy]:
    images: Any = pictures(made)
    files = [each for each in made.artifacts.values() if each.format == "onnx"]
    section, quiet = VerifySection(), Console(quiet=True)
    return verify.verify(
        images, "test", LABELS, *references(made), files, made.folder, section, quiet, engines=["openvino"]
    )


def test_verification_scores_it_beside_the_exact_engine(every: nets.Compressed) -> None:
    rows = scored(every)
    names = [(row.artifact, row.engine) for row in rows[2:]]
    assert names == [(id_, name) for name in ("onnxruntime", "openvino") for id_ in ("onnx-fp32", "onnx-int8")]
    exact, own = rows[3], rows[5]
    assert exact.max_steps == pytest.approx(0, abs=1e-3)
    assert own.passed
    assert own.images == exact.images
    assert own.max_steps is not None
    assert own.agreement_reference is not None
    assert rows[4].passed
    assert rows[4].max_difference == pytest.approx(0, abs=1e-3)
    verify.check(rows)


def test_what_misses_the_bound_fails_there_alone(every: nets.Compressed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "BOUND", Bound(-1, 1.0))
    rows = scored(every)
    assert [row.passed for row in rows] == [True] * 5 + [False]
    assert "steps away, the bound of openvino is -1" in rows[5].problem
    verify.check(rows)
    with pytest.raises(Shortfall):
        verify.check([replace(rows[5], engine="onnxruntime")])


def test_a_file_that_missed_the_bound_does_not_ship_in_that_engine() -> None:
    report = report_sample.report()
    fast, slow = (
        replace(report_sample.timing("onnx-int8", "onnxruntime", ms), engine=engine)
        for engine, ms in (("openvino", 1.0), ("onnxruntime", 2.0))
    )
    wrong = "outputs up to 17 steps away, the bound of openvino is 16"
    exact = next(row for row in report.accuracy if (row.artifact, row.engine) == ("onnx-int8", "onnxruntime"))
    for passed, engine in ((True, "openvino"), (False, "onnxruntime")):
        row = replace(exact, engine="openvino", passed=passed, problem="" if passed else wrong)
        found = verdict.decide(
            fast.device, report.artifacts, [*report.accuracy, row], [fast, slow], Device(name="x").limits, None
        )
        assert (found.artifact, found.engine) == ("onnx-int8", engine)
        assert passed or f"openvino, 1 thread is faster (1.00 ms) but it failed verification ({wrong})" in found.reason


# --- devices and bundles


def test_the_usual_engines_are_those_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"name": "host", "run": {"engines": "usual"}}
    assert Device.model_validate(given).run.engines == ["litert", "onnxruntime", "openvino", "executorch"]
    monkeypatch.setattr(engine_menu, "installed", lambda engine: False)
    assert Device.model_validate(given).run.engines == ["litert", "onnxruntime"]
    with pytest.raises(ValueError, match=r'run\.engines = "usual" is for this machine; name the engines of another'):
        Device.model_validate({**given, "reach": {"by": "ssh", "host": "pi"}})
    assert Device(name="x").run.engines == ["litert", "onnxruntime"]
    emulated = {"name": "pi", "reach": {"by": "qemu", "cpu": "cortex-a76"}, "run": {"engines": ["openvino"]}}
    with pytest.raises(ValueError, match="openvino is not part of emulated devices"):
        Device.model_validate(emulated)


def test_the_exact_engine_is_preferred_unless_the_verdict_says_otherwise() -> None:
    manifest: dict[str, Any] = {"artifacts": [{"id": "a", "format": "onnx"}], "ship": []}
    opened: Any = SimpleNamespace(path="x.edgekit", manifest=manifest)
    assert _load.choose(opened)[1] == "onnxruntime"
    row = {"device": "host", "artifact": "a", "engine": "openvino"}
    manifest["ship"] = [row]
    assert _load.choose(opened)[1] == "openvino"
    manifest["ship"] = [row, {**row, "device": "pi", "engine": "onnxruntime"}]
    assert _load.choose(opened)[1] == "onnxruntime"


# --- activation functions


def test_activations_are_part_of_int8_convolutions(every: nets.Compressed, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(every.folder / every.artifacts["onnx-int8"].path)
    exact, rewritten = onnxruntime.load(path), openvino.load(path)
    monkeypatch.setattr(openvino, "unrounded", lambda graph: 0)
    plain = openvino.load(path)
    alone = [
        [about["originalLayersNames"] for about in session.kernels().values() if about["layerType"] == "Subgraph"]
        for session in (plain, rewritten)
    ]
    assert sum("act/" in names for names in alone[0]) >= 5  # stem, and two in each of two blocks
    assert not any("act/" in names for names in alone[1])
    step, images = references(every)[1].step, nets.images(16, 7)
    assert step is not None
    wanted = nets.run(every.module, images).numpy()
    noise = {
        name: float(np.square(np.concatenate([session.run(x[None]) for x in images.numpy()]) - wanted).sum())
        for name, session in (("exact", exact), ("plain", plain), ("rewritten", rewritten))
    }
    assert noise["rewritten"] < 1.5 * noise["plain"]  # no formula went wrong: that would be far more
    assert noise["rewritten"] < 2.5 * noise["exact"]


def test_a_float_graph_stays_as_it_is(every: nets.Compressed) -> None:
    graph = openvino._read(str(every.folder / every.artifacts["onnx-fp32"].path))
    kinds = [node.get_type_name() for node in graph.get_ordered_ops()]
    assert openvino.unrounded(graph) == 0
    assert [node.get_type_name() for node in graph.get_ordered_ops()] == kinds
