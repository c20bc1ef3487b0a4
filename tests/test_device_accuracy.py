"""Accuracy on the devices: what comes back is compared with what the same file answers here."""

from __future__ import annotations

import base64
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.device.file import Device
from edgekit.disk import code_digest
from edgekit.profile import accuracy
from edgekit.reach.ways import ssh
from edgekit.reach.worker import WorkerFault
from edgekit.types import Artifact, InputSpec, TensorSpec
from tests.sshd import Board, board, boards
from tests.test_profile import QUIET

__all__ = ["board", "boards"]
SIZE, CLASSES = 96, 2


@pytest.fixture
def vww(shared: Path) -> Artifact:
    """A public int8 model, made by somebody else."""
    path = shared / "models" / "vww_96_int8.tflite"
    source = TensorSpec("x", (1, SIZE, SIZE, 3), "int8", "NHWC")
    sink = TensorSpec("y", (1, CLASSES), "int8", "NC", 1 / 256, -128)
    return Artifact("tflite-int8", "tflite", "int8", str(path), "", 0, 0, (), source, sink)


@pytest.fixture
def images() -> accuracy.TestImages:
    pixels = np.random.default_rng(0).integers(0, 256, (12, SIZE, SIZE, 3), np.uint8)
    spec = InputSpec(SIZE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    labels = np.zeros(12, np.int64)
    return accuracy.TestImages("test", pixels, labels, labels, spec)


def answers(artifact: Artifact, images: accuracy.TestImages) -> Any:
    """The oracle: the interpreter's own API, and quantization written out."""
    from ai_edge_litert.interpreter import Interpreter

    net = Interpreter(model_path=artifact.path, num_threads=1)
    net.allocate_tensors()
    source, sink = net.get_input_details()[0], net.get_output_details()[0]
    scale, zero = source["quantization"]
    rows = []
    for image in images.pixels:
        steps = np.rint((image.astype(np.float32) / np.float32(255)) * np.float32(1 / scale)) + zero
        net.set_tensor(source["index"], np.clip(steps, -128, 127).astype(np.int8)[None])
        net.invoke()
        rows.append(net.get_tensor(sink["index"])[0].copy())
    return np.stack(rows)


def test_score_runs_the_images_there(
    board: Board, vww: Artifact, images: accuracy.TestImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = {"pi": board.device("pi", engines=["litert"])}
    rows, failures = accuracy.score([vww], Path(), devices, images, 0.995, QUIET, tmp_path)
    predicted = answers(vww, images).argmax(1)
    assert failures == []
    (row,) = rows
    assert (row.device, row.engine, row.images, row.split) == ("pi", "litert", 12, "test")
    assert row.top1 == (predicted == 0).mean()
    assert (row.agreement_reference, row.max_steps, row.within_one_step, row.passed) == (1.0, 0.0, 1.0, True)
    monkeypatch.setattr(accuracy, "_compare", None)  # another time nothing has to run
    assert accuracy.score([vww], Path(), devices, images, 0.995, QUIET, tmp_path) == (rows, [])


@pytest.mark.parametrize(
    "change",
    [
        {"labels": np.ones(12, np.int64)},
        {"exact": np.ones(12, np.int64)},
        {"split": "val"},
        {"spec": InputSpec(SIZE, (0.1, 0.0, 0.0), (1.0, 1.0, 1.0))},
        {"spec": InputSpec(SIZE, (0.0, 0.0, 0.0), (1.0, 1.0, 0.5))},
    ],
    ids=["labels", "exact", "split", "mean", "std"],
)
def test_a_kept_score_is_used_for_the_same_question_only(
    board: Board,
    vww: Artifact,
    images: accuracy.TestImages,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
) -> None:
    devices = {"pi": board.device("pi", engines=["litert"])}
    rows, _ = accuracy.score([vww], Path(), devices, images, 0.995, QUIET, tmp_path, tidy=False)

    def refuse(*_: object) -> None:
        raise WorkerFault("it ran again")

    monkeypatch.setattr(accuracy, "_compare", refuse)
    assert accuracy.score([vww], Path(), devices, images, 0.995, QUIET, tmp_path, tidy=False) == (rows, [])
    again = accuracy.score([vww], Path(), devices, replace(images, **change), 0.995, QUIET, tmp_path, tidy=False)
    assert (again[0], [failure.reason for failure in again[1]]) == ([], ["accuracy: it ran again"])


def test_a_kept_score_is_of_one_artifact_and_one_edgekit(
    board: Board, vww: Artifact, images: accuracy.TestImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = np.zeros((12, CLASSES), np.int8)
    asked: list[str] = []

    def answer(fleet: Any, reach: Any, device: Device, *_: object) -> accuracy._Answer:
        asked.append(device.name)
        return accuracy._Answer("1", outputs)

    def ran(artifact: Artifact) -> bool:
        asked.clear()
        rows, failures = accuracy.score([artifact], Path(), devices, images, 0.995, QUIET, tmp_path, tidy=False)
        assert failures == []
        assert [row.artifact for row in rows] == [artifact.id]
        return "pi" in asked

    monkeypatch.setattr(accuracy, "_ask", answer)
    devices = {"pi": board.device("pi", engines=["litert"])}
    others = [
        replace(vww, id="another"),
        replace(vww, precision="fp32"),
        replace(vww, input=replace(vww.input, layout="NCHW")),
        replace(vww, input=replace(vww.input, scale=0.5)),
        replace(vww, input=replace(vww.input, zero_point=1)),
        replace(vww, output=replace(vww.output, scale=0.5)),
        replace(vww, output=replace(vww.output, zero_point=1)),
    ]
    assert ran(vww)
    assert [ran(other) for other in others] == [True] * len(others)
    assert [ran(known) for known in (vww, *others)] == [False] * (1 + len(others))
    monkeypatch.setattr(code_digest, "digest", lambda module: "of edited code")
    assert ran(vww)


def test_this_machine_is_not_asked_what_verification_has_asked(vww: Artifact, images: accuracy.TestImages) -> None:
    host = Device.model_validate({"name": "host", "run": {"engines": ["litert", "onnxruntime"]}})
    assert accuracy.score([vww], Path(), {"host": host}, images, 0.995, QUIET) == ([], [])


def answering(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    """The device says this in place of outputs."""
    start = ssh.start

    def fake(argv: Any, device: Device) -> subprocess.Popen[str]:
        if "edgekit.runtime.outputs" in argv:
            said = json.dumps(answer)
            code = f"import sys; sys.stdin.readline(); print({said!r}, flush=True); sys.stdin.read()"
            return start(["-c", code], device)
        return start(argv, device)

    monkeypatch.setattr(ssh, "start", fake)


def encoded(outputs: Any) -> dict[str, Any]:
    data = base64.b64encode(outputs.tobytes()).decode()
    return {"version": "1", "provider": "p", "dtype": outputs.dtype.name, "shape": outputs.shape, "outputs": data}


def test_a_device_that_computes_something_else_fails(
    board: Board, vww: Artifact, images: accuracy.TestImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = answers(vww, images)
    wrong[:2] = wrong[:2, ::-1]  # two images, one more than is allowed
    answering(monkeypatch, encoded(wrong))
    (row,), _ = accuracy.score([vww], Path(), {"pi": board.device(engines=["litert"])}, images, 0.995, QUIET)
    assert not row.passed
    assert row.problem == "83.33% top-1 agreement with the same file on the host; 99.50% is required"
    assert row.max_steps == np.abs(wrong[:2].astype(int) - wrong[:2, ::-1]).max()


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"outputs": "!", "dtype": "int8", "shape": [12, 2], "version": "1"},
        {**encoded(np.zeros((12, 2), np.int8)), "shape": [12, 3]},
        {**encoded(np.zeros((12, 2), np.int8)), "dtype": "object"},
        {**encoded(np.zeros((12, 2), np.int8)), "dtype": "no such"},
        encoded(np.zeros((5, 2), np.int8)),
    ],
)
def test_nonsense_is_refused(answer: dict[str, Any]) -> None:
    with pytest.raises(WorkerFault, match="the device returned no valid outputs for 12 images"):
        accuracy._decoded(answer, 12)


@pytest.mark.parametrize("answer", [encoded(np.zeros((12, 3), np.int8)), {"error": "the engine is on fire"}])
def test_a_device_that_answers_nonsense_is_a_failure(
    board: Board, vww: Artifact, images: accuracy.TestImages, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    answering(monkeypatch, answer)
    devices = {"pi": board.device("pi", engines=["litert"])}
    rows, (failure,) = accuracy.score([vww], Path(), devices, images, 0.995, QUIET)
    assert rows == []
    assert (failure.device, failure.artifact, failure.lost) == ("pi", "tflite-int8", False)
    assert failure.reason.startswith("accuracy: ")
    assert "\n" not in failure.reason
