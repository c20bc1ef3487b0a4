"""Through the front door: one command from images to a report, whose numbers plain engine code confirms."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from jsonschema import Draft202012Validator
from PIL import Image

from edgekit.report import _schema
from tests.conftest import TinyRun
from tests.support import FILES, edgekit


@pytest.fixture(scope="module")
def report(tiny: TinyRun) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tiny.path / "10-report" / "report.json").read_text())
    return found


@pytest.fixture(scope="module")
def test_images(tiny: TinyRun) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The test split, prepared by hand: (images, height, width, 3) in -1..1, and labels."""
    index = json.loads((tiny.path / "1-data" / "index.json").read_text())
    samples = [sample for sample in index["samples"] if sample["split"] == "test"]
    pixels = []
    for sample in samples:
        image = Image.open(tiny.path / "1-data" / index["root"] / sample["path"]).convert("RGB")
        pixels.append(np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR)))
    return np.stack(pixels).astype(np.float32) / 127.5 - 1, np.array([sample["label"] for sample in samples])


def onnx_logits(path: Path, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")  # or int8 saturates on x86 without VNNI
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (name,) = (port.name for port in session.get_inputs())
    planes = images.transpose(0, 3, 1, 2)
    return np.concatenate([session.run(None, {name: planes[place : place + 1]})[0] for place in range(len(planes))])


def tflite_logits(path: Path, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    (source,), (sink,) = interpreter.get_input_details(), interpreter.get_output_details()
    rows = []
    for image in images:
        fed = image[None]
        if source["dtype"] == np.int8:
            scale, zero = source["quantization"]
            fed = np.clip(np.round(fed / scale) + zero, -128, 127).astype(np.int8)
        interpreter.set_tensor(source["index"], fed)
        interpreter.invoke()
        rows.append(interpreter.get_tensor(sink["index"])[0])
    return np.stack(rows)


@pytest.mark.parametrize("name", ["onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8"])
def test_report_states_the_accuracy_that_plain_engine_code_finds(
    tiny: TinyRun, report: dict[str, Any], test_images: Any, name: str
) -> None:
    images, labels = test_images
    file, precision = name.split("-")
    logits = (onnx_logits if file == "onnx" else tflite_logits)(
        tiny.path / "6-export" / f"model-{precision}.{file}", images
    )
    row = next(row for row in report["accuracy"] if row["artifact"] == name)
    assert row["images"] == len(labels) == 270
    # One image in 270 may sit on the edge between two classes: resizing and rounding are done twice here.
    assert row["top1"] == pytest.approx((logits.argmax(1) == labels).mean(), abs=1.5 / len(labels))
    assert row["top1"] > 0.8


def test_report_follows_its_schema_and_has_the_promised_keys(report: dict[str, Any]) -> None:
    Draft202012Validator(_schema.schema()).validate(report)
    promised = {
        "artifacts": "id format precision path sha256 bytes float_ops",
        "accuracy": "artifact engine device split images top1 agreement",
        "latency": "artifact engine engine_version provider device threads batch kind p50_ms p90_ms p99_ms samples",
        "verdict": "device artifact engine threads reason",
    }
    for table, keys in promised.items():
        assert report[table]
        for row in report[table]:
            assert set(keys.split()) <= set(row)
            assert not [key for key in keys.split() if row[key] is None]


def test_report_names_the_files_that_are_there(tiny: TinyRun, report: dict[str, Any]) -> None:
    names = [f"6-export/{artifact['path']}" for artifact in report["artifacts"]]
    assert sorted(names) == sorted(FILES[1:])
    for artifact in report["artifacts"]:
        data = (tiny.path / "6-export" / artifact["path"]).read_bytes()
        assert artifact["sha256"] == hashlib.sha256(data).hexdigest()
        assert artifact["bytes"] == len(data)


def test_report_is_consistent(report: dict[str, Any]) -> None:
    known = {artifact["id"] for artifact in report["artifacts"]}
    assert {row["artifact"] for row in report["accuracy"]} == known | {"torch-fp32", "torch-int8"}
    assert {row["artifact"] for row in report["latency"]} == known
    for row in report["latency"]:
        assert row["kind"] == "measured"
        samples = np.sort(row["samples"])
        assert samples[0] == pytest.approx(row["min_ms"])
        assert row["min_ms"] <= row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"] <= samples[-1]
    (verdict,) = report["verdict"]
    assert verdict["artifact"] in known
    assert verdict["device"] == "quick"


def test_reports_agree_on_the_verdict(tiny: TinyRun, report: dict[str, Any]) -> None:
    (verdict,) = report["verdict"]
    page = (tiny.path / "10-report" / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    for text in (page, (tiny.path / "10-report" / "report.md").read_text()):
        assert verdict["artifact"] in text


SMALL = """
[model]
name    = "torchvision/mobilenet_v2"
weights = "none"
options = { inverted_residual_setting = [[1, 8, 1, 1], [4, 16, 1, 2]] }
[data]
source = "digits"
input  = 16
"""


@pytest.mark.parametrize(
    ("sections", "skipped", "artifacts"),
    [
        ("", {"prune", "lower", "quantize", "export", "verify", "bundle", "profile"}, set()),
        (
            '[export]\nformats = ["onnx"]\n[verify]\nimages = 20\n',
            {"prune", "lower", "quantize", "profile"},
            {"onnx-fp32"},
        ),
    ],
)
def test_run_does_what_the_recipe_names_and_reports_the_rest(
    tmp_path: Path, sections: str, skipped: set[str], artifacts: set[str]
) -> None:
    (tmp_path / "mine.toml").write_text(SMALL + sections)
    answer = edgekit("run", "mine.toml", cwd=tmp_path)
    assert "the weights are random" in answer.stderr
    found = json.loads((tmp_path / "runs" / "mine" / "10-report" / "report.json").read_text())
    assert {stage["name"] for stage in found["stages"] if stage["skipped"]} == skipped
    assert all(stage["reason"] for stage in found["stages"] if stage["skipped"] or stage["name"] == "train")
    assert {artifact["id"] for artifact in found["artifacts"]} == artifacts
    assert {row["artifact"] for row in found["accuracy"]} == (artifacts | {"torch-fp32"} if artifacts else set())
    assert (found["latency"], found["verdict"]) == ([], [])
    Draft202012Validator(_schema.schema()).validate(found)
