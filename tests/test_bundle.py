"""What `edgekit compress` and `edgekit pack` put into a bundle, judged by zipfile, Pillow and the engines."""

from __future__ import annotations

import hashlib
import io
import json
import math
import platform
import shutil
import signal
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from PIL import Image

from edgekit.data.transforms import decode, fit
from edgekit.deploy import bundle, golden_vectors
from edgekit.disk.run_directory import UNVERIFIED, RunDirectory
from edgekit.errors import InputError, Shortfall
from edgekit.runtime import load
from edgekit.scores import Accuracy
from edgekit.types import Artifact, InputSpec, Sample, TensorSpec
from tests.conftest import TinyRun
from tests.small_bundle import MODEL, manifest, small
from tests.support import BUNDLE, complaint, edgekit, environment
from tests.test_faults import MOUNTED
from tests.test_tiny import onnx_logits

SCHEMA = json.loads((Path(bundle.__file__).parents[1] / "runtime" / "manifest.schema.json").read_text())


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def stated(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(members(path)["manifest.json"])
    return found


@pytest.fixture(scope="module")
def whole(tiny: TinyRun) -> Path:
    """What the run wrote by itself."""
    return tiny.path / BUNDLE


@pytest.fixture(scope="module")
def packed(tiny: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `edgekit pack` makes of it."""
    folder = tmp_path_factory.mktemp("packed")
    assert edgekit("pack", tiny.path, cwd=folder).stdout.startswith("digits.edgekit: ")
    return folder / "digits.edgekit"


# Contents ------------------------------------------------------------------------------------------


def test_run_names_its_bundle(tiny: TinyRun, whole: Path) -> None:
    assert json.loads(tiny.answer.stdout)["bundle"] == str(whole)
    assert whole.is_file()


def test_manifests_follow_the_published_schema(whole: Path, packed: Path) -> None:
    Draft202012Validator.check_schema(SCHEMA)
    for path in (whole, packed):
        Draft202012Validator(SCHEMA).validate(stated(path))
    Draft202012Validator(SCHEMA).validate(manifest())


def test_manifest_holds_the_hash_of_every_other_member(whole: Path, packed: Path) -> None:
    for path in (whole, packed):
        found = members(path)
        listed = json.loads(found.pop("manifest.json"))["members"]
        assert listed == {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in found.items()
        }


def test_bundle_holds_the_verified_files_and_says_what_they_score(tiny: TinyRun, whole: Path) -> None:
    found, exported = stated(whole), tiny.path / "6-export"
    rows = {row["id"]: row for row in json.loads((exported / "artifacts.json").read_text())}
    scores = {row["artifact"]: row for row in json.loads((tiny.path / "7-verify" / "accuracy.json").read_text())}
    assert {artifact["id"] for artifact in found["artifacts"]} == set(rows)
    assert [artifact["precision"] for artifact in found["artifacts"]] == ["int8", "int8", "fp32", "fp32"]
    for artifact in found["artifacts"]:
        row, (score,) = rows[artifact["id"]], artifact["accuracy"]
        assert members(whole)[artifact["file"]] == (exported / row["path"]).read_bytes()
        assert (artifact["input"], artifact["output"]) == (row["input"], row["output"])
        assert score == {key: scores[artifact["id"]][key] for key in score}
    assert found["recipe"]["data"]["input"] == 16
    assert "profile" not in found["recipe"]
    provenance = found["provenance"]
    assert {"python", "torch", "numpy"} <= set(provenance["packages"])
    assert set(provenance["seeds"]) == {"split", "train", "calibration"}
    weights = hashlib.sha256((tiny.path / "2-train" / "model.safetensors").read_bytes()).hexdigest()
    assert provenance["hashes"]["weights"] == weights
    assert "created" not in json.dumps(found)


def test_bundle_says_nothing_of_this_machine(tiny: TinyRun, whole: Path, packed: Path) -> None:
    for path in (whole, packed):
        text = members(path)["manifest.json"].decode()
        assert platform.node() not in text
        assert str(tiny.path.parent) not in text


def test_labels_are_those_of_the_data(tiny: TinyRun, whole: Path) -> None:
    labels = json.loads((tiny.path / "1-data" / "index.json").read_text())["labels"]
    assert members(whole)["labels.txt"].decode().split("\n") == [*labels, ""]


def test_golden_images_are_of_the_test_split_and_of_many_classes(tiny: TinyRun, whole: Path) -> None:
    samples = json.loads((tiny.path / "1-data" / "index.json").read_text())["samples"]
    known = {sample["sha256"]: sample for sample in samples}
    images = [members(whole)[name] for name in stated(whole)["golden"]["images"]]
    chosen = [known[hashlib.sha256(image).hexdigest()] for image in images]
    assert len(chosen) == len({sample["label"] for sample in chosen}) == 8
    assert {sample["split"] for sample in chosen} == {"test"}


def _pixels(path: Path) -> npt.NDArray[np.uint8]:
    """What Pillow alone makes of the golden images."""
    images = [Image.open(io.BytesIO(members(path)[name])) for name in stated(path)["golden"]["images"]]
    rows = [image.convert("RGB").resize((16, 16), Image.Resampling.BILINEAR) for image in images]
    return np.stack([np.asarray(row) for row in rows])


def test_golden_inputs_are_what_pillow_makes_of_the_images(whole: Path) -> None:
    inputs = np.load(io.BytesIO(members(whole)["golden/inputs.npy"]))
    assert inputs.dtype == np.uint8
    assert np.array_equal(inputs, _pixels(whole))


@pytest.mark.parametrize("name", ["onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8"])
def test_golden_outputs_are_what_plain_engine_code_gives(whole: Path, tmp_path: Path, name: str) -> None:
    artifact = next(each for each in stated(whole)["artifacts"] if each["id"] == name)
    model = tmp_path / "model"
    model.write_bytes(members(whole)[artifact["file"]])
    images = _pixels(whole).astype(np.float32) / 127.5 - 1
    wanted = np.load(io.BytesIO(members(whole)[artifact["golden"]["outputs"]]))
    found = onnx_logits(model, images) if artifact["format"] == "onnx" else _raw_tflite(model, images)
    assert (
        (found.dtype, found.shape) == (wanted.dtype, wanted.shape) == (np.dtype(artifact["output"]["dtype"]), (8, 10))
    )
    difference = float(np.abs(found.astype(np.float64) - wanted).max())
    unit = 1.0 if wanted.dtype == np.int8 else float(np.abs(wanted).max())
    assert difference / unit <= artifact["golden"]["tolerance"]
    # An answer that is two steps off, or another image's, is beyond it.
    step = 1.0 if wanted.dtype == np.int8 else 0.0541 if "int8" in name else 0.002 * unit
    assert artifact["golden"]["tolerance"] < 2 * step / unit
    assert ("tolerance_builtin" in artifact["golden"]) == (name == "tflite-int8")


def _raw_tflite(path: Path, images: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    (source,), (sink,) = interpreter.get_input_details(), interpreter.get_output_details()
    scale, zero = source["quantization"]
    rows = []
    for image in images:
        fed = np.clip(np.round(image / scale) + zero, -128, 127).astype(np.int8) if scale else image
        interpreter.set_tensor(source["index"], fed[None])
        interpreter.invoke()
        rows.append(interpreter.get_tensor(sink["index"])[0])
    return np.stack(rows)


# What the runtime makes of it -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8"])
def test_runtime_predicts_what_torch_predicted(tiny: TinyRun, whole: Path, name: str) -> None:
    """Preprocessing and labels as the manifest says them against the path of training, over the whole test split."""
    from edgekit import models
    from edgekit.data import index_file
    from edgekit.data.dataset import ImageSet
    from edgekit.graph import exported_program, integer_arithmetic

    module, checkpoint = models.load(tiny.path / "2-train")
    if "int8" in name:
        module = integer_arithmetic.integer_graph(exported_program.load(tiny.path / "5-quantize" / "quantized.pt2"))
    index, root = index_file.load_rooted(tiny.path / "1-data")
    images = ImageSet(index, root, "test", checkpoint.input)
    with torch.no_grad(), load(str(whole), artifact=name) as model:
        found = [model(str(root / sample.path)) for sample in images.samples]
        wanted = [module(images[place][0].unsqueeze(0))[0] for place in range(len(images))]
    assert len(found) == 270
    assert [row.index for row in found] == [int(row.argmax()) for row in wanted]
    assert [row.label for row in found] == [index.labels[row.index] for row in found]
    scores = torch.stack(wanted).softmax(1).numpy()
    assert np.abs(np.stack([row.scores for row in found]) - scores).max() < 1e-4


def test_a_bundle_whose_golden_outputs_do_not_hold_is_not_written(whole: Path, tmp_path: Path) -> None:
    found = members(whole)
    stays = json.loads(found.pop("manifest.json"))
    outputs = np.load(io.BytesIO(found["golden/tflite-int8.npy"]))
    outputs[3, 2] -= 3
    file = io.BytesIO()
    np.save(file, outputs)
    found["golden/tflite-int8.npy"] = file.getvalue()
    with pytest.raises(Shortfall, match=r"not written, as the runtime refuses it: .*golden vector 4 of 8 is 3 steps"):
        bundle.write(tmp_path / "a.edgekit", bundle.Contents(stays, found), replay=True)
    assert list(tmp_path.iterdir()) == []


# Pack ----------------------------------------------------------------------------------------------


def test_pack_adds_the_verdict(tiny: TinyRun, packed: Path) -> None:
    (verdict,) = json.loads((tiny.path / "10-report" / "verdict.json").read_text())
    found = stated(packed)
    (ship,) = found["ship"]
    assert ship == {key: verdict[key] for key in ("device", "artifact", "engine", "threads", "kind", "reason")}
    first, *others = found["artifacts"]
    assert (first["id"], first["devices"]) == (verdict["artifact"], ["quick"])
    assert [artifact["devices"] for artifact in others] == [[], [], []]
    assert {artifact["id"] for artifact in others} == {"onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8"} - {
        first["id"]
    }


def test_pack_for_a_device_takes_its_file_alone(tiny: TinyRun, packed: Path, tmp_path: Path) -> None:
    edgekit("pack", tiny.path, "--device", "quick", "--out", tmp_path / "one.edgekit")
    found, everything = members(tmp_path / "one.edgekit"), members(packed)
    (artifact,) = stated(tmp_path / "one.edgekit")["artifacts"]
    assert artifact == stated(packed)["artifacts"][0]
    assert {name for name in found if name.startswith("models/")} == {artifact["file"]}
    assert all(everything[name] == data for name, data in found.items() if name != "manifest.json")


def test_pack_takes_the_artifacts_that_are_named(tiny: TinyRun, tmp_path: Path) -> None:
    answer = edgekit("pack", tiny.path, "--artifact", "onnx-fp32", "--artifact", "onnx-int8", "--json", cwd=tmp_path)
    said, file = json.loads(answer.stdout), tmp_path / "digits.edgekit"
    assert (said["bundle"], said["bytes"], said["signed_by"]) == (file.name, file.stat().st_size, None)
    assert said["digest"] == hashlib.sha256(members(file)["manifest.json"]).hexdigest()
    assert set(said["artifacts"]) == {"onnx-fp32", "onnx-int8"}
    assert {each["id"] for each in stated(tmp_path / "digits.edgekit")["artifacts"]} == {"onnx-fp32", "onnx-int8"}


def test_pack_gives_the_same_bytes_in_every_process(tiny: TinyRun, packed: Path, tmp_path: Path) -> None:
    for seed in ("1", "2"):
        edgekit("pack", tiny.path, "--out", tmp_path / seed, cwd=tmp_path, env={"PYTHONHASHSEED": seed})
        assert (tmp_path / seed).read_bytes() == packed.read_bytes()


def test_pack_says_when_there_is_no_verdict_yet(copied: Path, tmp_path: Path) -> None:
    shutil.rmtree(copied / "10-report")
    answer = edgekit("pack", copied, "--out", tmp_path / "a.edgekit")
    assert "without a verdict" in answer.stderr
    assert stated(tmp_path / "a.edgekit")["ship"] == []
    message = complaint("pack", copied, "--device", "quick", code=2, cwd=tmp_path)
    assert message == f'{copied}: no verdict on "quick": edgekit report {copied} --device quick'


def test_pack_refuses_for_a_device_on_which_nothing_meets_the_limits(copied: Path, tiny: TinyRun) -> None:
    device = copied.parent / "board.toml"
    device.write_text(tiny.device.read_text().replace("quick", "board") + "[limits]\nsize_mb = 1e-6\n")
    edgekit("report", copied, "--device", device)
    message = complaint("pack", copied, "--device", "board", code=1, cwd=copied.parent)
    (verdict,) = json.loads((copied / "10-report" / "verdict.json").read_text())
    assert verdict["artifact"] is None
    assert message == f"{copied}: nothing to pack for board: {verdict['reason']}"


def test_pack_refuses_files_that_failed_verification(copied: Path) -> None:
    (copied / "6-export" / UNVERIFIED).write_text("verify: onnx-fp32: 3 of 4\n  tflite-fp32: 2 of 4\n")
    message = complaint("pack", copied, code=1, cwd=copied.parent)
    assert message == f"{copied}: files that failed verification are not packed: verify: onnx-fp32: 3 of 4"
    assert not list(copied.parent.glob("*.edgekit"))


def _no_run(run: Path) -> None:
    (run / "recipe.json").unlink()


def _no_bundle(run: Path) -> None:
    shutil.rmtree(run / "8-bundle")


def _harmed(run: Path) -> None:
    data = bytearray((run / BUNDLE).read_bytes())
    data[len(data) // 2] ^= 1
    (run / BUNDLE).write_bytes(data)


def _exported_anew(run: Path) -> None:
    folder = RunDirectory(run).folder("export")
    record = json.loads((folder / "stage.json").read_text())
    data = (folder / "model-int8.onnx").read_bytes() + b"\0"
    (folder / "model-int8.onnx").write_bytes(data)
    record["outputs"]["model-int8.onnx"] = hashlib.sha256(data).hexdigest()
    (folder / "stage.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("harm", "words", "message"),
    [
        (_no_run, {}, "neither a run directory"),
        (_no_bundle, {}, "no verified files to pack: edgekit compress "),
        (_harmed, {}, "no verified files to pack: edgekit compress "),
        (_exported_anew, {}, "the files have changed since they were bundled: edgekit compress "),
        (lambda _: None, {"ids": ["onnx-int9"]}, 'no such verified artifact; did you mean "onnx-int8"'),
        (lambda _: None, {"device": "quick", "ids": ["onnx-int8"]}, "give --device or --artifact"),
        (lambda _: None, {"device": "pi"}, r'no verdict on "pi" \(there is one for: quick\)'),
    ],
)
def test_pack_refuses(copied: Path, harm: Callable[[Path], None], words: Any, message: str) -> None:
    harm(copied)
    with pytest.raises(InputError, match=message):
        bundle.from_run(copied, **words)


def test_run_without_verify_has_no_bundle(copied: Path) -> None:
    record = json.loads((copied / "recipe.json").read_text())
    record["recipe"] |= {"verify": None}
    (copied / "recipe.json").write_text(json.dumps(record))
    answer = edgekit("compress", copied)
    assert "bundle: skipped, the exported files were not verified" in answer.stderr
    assert "bundle" not in answer.stdout


# From a manifest -----------------------------------------------------------------------------------


def by_hand(folder: Path, **changes: Any) -> Path:
    (folder / "my.json").write_text(json.dumps(manifest(**changes)))
    (folder / "labels.txt").write_text("no\nyes\n")
    (folder / "model.tflite").write_bytes(MODEL)
    return folder / "my.json"


def test_pack_makes_a_bundle_of_a_hand_written_manifest(tmp_path: Path) -> None:
    by_hand(tmp_path, **{"$schema": "manifest.schema.json"})
    edgekit("pack", "my.json", cwd=tmp_path)
    found = members(tmp_path / "small.edgekit")
    assert list(found) == ["manifest.json", "labels.txt", "model.tflite"]
    assert found["model.tflite"] == MODEL
    Draft202012Validator(SCHEMA).validate(json.loads(found["manifest.json"]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": "gone.txt"}, "gone.txt"),
        ({"version": "2.0"}, "version 2.0"),
        ({"artifacts": []}, "artifacts"),
        ({"labels": "../labels.txt"}, "labels"),
    ],
)
def test_pack_refuses_a_manifest_that_cannot_be_used(tmp_path: Path, changes: Any, message: str) -> None:
    path = by_hand(tmp_path, **changes)
    before = sorted(each.name for each in tmp_path.iterdir())
    assert message in complaint("pack", path, code=2, cwd=tmp_path)
    assert sorted(each.name for each in tmp_path.iterdir()) == before


# Faults --------------------------------------------------------------------------------------------

KILL = """
import os, signal, sys
from pathlib import Path
from tests.small_bundle import small
path, left = Path(sys.argv[1]), int(sys.argv[2])
def hook(event, arguments):
    global left
    if event in ("open", "os.rename", "os.remove", "os.truncate") and str(arguments[0]).startswith(str(path.parent)):
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
small(path)
"""


def test_killed_at_any_step_leaves_the_old_bundle_or_the_new_one(tmp_path: Path) -> None:
    folder, path = tmp_path / "out", tmp_path / "out" / "a.edgekit"
    folder.mkdir()
    new, codes = small(tmp_path / "new.edgekit").read_bytes(), []
    for step in range(1, 20):
        path.write_bytes(b"old")
        command = [sys.executable, "-c", KILL, str(path), str(step)]
        codes.append(subprocess.run(command, env=environment(), capture_output=True).returncode)
        assert path.read_bytes() in (b"old", new)
        if not codes[-1]:
            break
    assert codes[-1] == 0
    assert set(codes[:-1]) == {-signal.SIGKILL}
    assert len(codes) > 4
    assert [each.name for each in folder.iterdir()] == ["a.edgekit"]
    assert path.read_bytes() == new


def test_interrupted_or_refused_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bundle, "_check", interrupt)
        with pytest.raises(KeyboardInterrupt):
            small(tmp_path / "a.edgekit")
    contents = bundle.Contents(manifest(name="not a name"), {"labels.txt": b"0\n1\n", "model.tflite": b""})
    with pytest.raises(Shortfall, match=r"not written, as the runtime refuses it: .*name"):
        bundle.write(tmp_path / "a.edgekit", contents)
    with pytest.raises(InputError, match="cannot be read"):
        bundle.write(tmp_path / "a.edgekit", contents, key=tmp_path / "gone.key")
    with pytest.raises(InputError, match="cannot be written: No such file"):
        small(tmp_path / "gone" / "a.edgekit")
    (tmp_path / "folder.edgekit").mkdir()
    with pytest.raises(InputError, match="cannot be written: Is a directory"):
        small(tmp_path / "folder.edgekit")
    assert [each.name for each in tmp_path.iterdir()] == ["folder.edgekit"]


def test_a_full_disk_is_named_and_leaves_the_old_bundle(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from edgekit import errors\n"
        "from edgekit.deploy import bundle; from tests.small_bundle import manifest\n"
        "path = Path('a.edgekit'); path.write_bytes(b'old')\n"
        "files = {'labels.txt': b'0\\n1\\n', 'model.tflite': bytes(3 << 20)}\n"
        "try: bundle.write(path, bundle.Contents(manifest(), files))\n"
        "except errors.DiskFull as error: print(error, sorted(p.name for p in Path().iterdir()), path.read_bytes())"
    )
    (tmp_path / "disk").mkdir()
    script = f'mount -t tmpfs -o size=1m none {tmp_path}/disk && cd {tmp_path}/disk && "$@"'
    if subprocess.run([*MOUNTED, "true"], capture_output=True).returncode:
        pytest.skip("a disk of a given size needs user namespaces")
    command = [*MOUNTED, script, "sh", sys.executable, "-c", code]
    answer = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert "the disk is full (" in answer.stdout, answer.stderr
    assert answer.stdout.endswith("['a.edgekit'] b'old'\n")


# Golden vectors ------------------------------------------------------------------------------------


def _sample(number: int, label: int) -> Sample:
    return Sample(f"{number}.png", label, "test", hashlib.sha256(str(number).encode()).hexdigest())


@given(labels=st.lists(st.integers(0, 5), min_size=1, max_size=40), seed=st.integers(0, 99), data=st.data())
def test_choice_is_spread_over_the_classes_and_hangs_on_the_seed_alone(
    labels: list[int], seed: int, data: st.DataObject
) -> None:
    samples = [_sample(number, label) for number, label in enumerate(labels)]
    chosen = golden_vectors.choose(samples, seed)
    assert len(chosen) == len(set(chosen)) == min(8, len(samples))
    assert golden_vectors.choose(data.draw(st.permutations(samples)), seed) == chosen
    there, taken = Counter(labels), Counter(sample.label for sample in chosen)
    fewest = min(taken[label] for label in there if taken[label] < there[label]) if len(chosen) < len(samples) else 8
    assert max(taken.values()) <= fewest + 1


SPECS = st.builds(
    InputSpec,
    st.integers(8, 40),
    st.just((0.5, 0.5, 0.5)),
    st.just((0.5, 0.5, 0.5)),
    st.sampled_from([0.5, 0.75, 0.875, 0.9, 1.0]),
    st.sampled_from(["bilinear", "bicubic"]),
)


@settings(deadline=None, max_examples=40)
@given(spec=SPECS, width=st.integers(1, 90), height=st.integers(1, 90), kind=st.sampled_from(["BMP", "JPEG", "PNG"]))
def test_golden_images_decode_to_the_golden_inputs(
    tmp_path_factory: pytest.TempPathFactory, spec: InputSpec, width: int, height: int, kind: str
) -> None:
    folder = tmp_path_factory.mktemp("image")
    pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "a", kind)
    golden = golden_vectors.inputs([Sample("a", 0, "test", "")], folder, spec)
    ((name, data),) = golden.images.items()
    assert name == {"BMP": "golden/0.png", "JPEG": "golden/0.jpg", "PNG": "golden/0.png"}[kind]
    assert (data == (folder / "a").read_bytes()) == (kind != "BMP")
    assert golden.pixels.shape == (1, spec.size, spec.size, 3)
    assert np.array_equal(golden.pixels[0], np.asarray(fit(Image.open(folder / "a").convert("RGB"), spec)))
    assert np.array_equal(golden.pixels[0], np.asarray(fit(decode(data).image, spec)))


def test_large_image_files_are_not_shipped(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (400, 600, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a", "PNG")
    spec = InputSpec(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 0.875)
    golden = golden_vectors.inputs([Sample("a", 0, "test", "")], tmp_path, spec)
    ((_, data),) = golden.images.items()
    assert len(data) < 1 << 13 < golden_vectors.LARGEST < (tmp_path / "a").stat().st_size
    assert np.array_equal(golden.pixels[0], np.asarray(fit(decode(data).image, spec)))
    assert np.array_equal(golden.pixels[0], np.asarray(fit(Image.fromarray(pixels), spec)))


def _case(precision: str, dtype: str, outputs: list[list[float]], **row: Any) -> tuple[Artifact, Accuracy, Any]:
    scale, zero = (0.5, 3) if dtype != "float32" else (None, None)
    port = TensorSpec("y", (1, len(outputs[0])), dtype, "NC", scale, zero)
    float_ops = int(row.pop("float_ops", 0))
    artifact = Artifact(f"tflite-{precision}", "tflite", precision, "a", "", 0, float_ops, (), port, port)
    accuracy = Accuracy(artifact.id, "litert", "2", "host", "test", 8, 1.0, 1.0)
    return artifact, replace(accuracy, **row), np.array(outputs, dtype)


@pytest.mark.parametrize(
    ("case", "step", "expected"),
    [
        (_case("int8", "int8", [[9, -4]]), 0.5, 1),
        (_case("int8", "int8", [[9, -4]], max_steps=2.0), 0.5, 2),
        (_case("int8", "int8", [[9, -4]], float_ops=2), 0.5, 4),
        (_case("int8", "float32", [[5, -10]]), 0.5, 1.5 * 0.5 / 10),
        (_case("int8", "float32", [[5, -10]], float_ops=2), None, 4.5 * 2 / 255),
        (_case("fp32", "float32", [[5, -10]]), None, 1e-3),
        (_case("fp16", "float32", [[5, -10]]), None, 1e-2),
        (_case("int16x8", "int16", [[5003, 3]]), None, 5),
    ],
)
def test_tolerance_is_in_the_unit_of_the_manifest(case: Any, step: float | None, expected: float) -> None:
    artifact, row, outputs = case
    assert math.isclose(golden_vectors.tolerance(artifact, [row], outputs, step, 1e-3), expected)
