"""The runtime where it will run: Pythons with NumPy and one engine. The suite is `tests/on_device.py`."""

from __future__ import annotations

import base64
import email
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from ai_edge_litert import interpreter as litert
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from packaging.requirements import Requirement
from PIL import Image

from edgekit.reach import runtime_zip
from edgekit.runtime import machine
from edgekit.runtime.preprocess import Preprocessing
from tests import bundles, interpreters, on_device
from tests.conftest import TinyRun
from tests.support import BUNDLE, ROOT
from tests.test_runtime_image import by_pillow, noise
from tests.test_runtime_model import THIRD_PARTY, third_party

Array = npt.NDArray[Any]

ENVIRONMENTS = {
    "tflite-runtime on the oldest Python": (("3.9", "3.11"), ["tflite"], "tflite_runtime"),
    "ai-edge-litert on the newest Python": (("3.13",), ["litert"], "litert"),
    "onnxruntime with Pillow": (("3.12", "3.11"), ["onnx", "pillow"], "onnxruntime"),
    "openvino": (("3.12", "3.11"), ["openvino"], "openvino"),
}
PHOTOS = [(16, 16, 3), (40, 30, 3), (23, 61, 3), (7, 9, 3), (120, 50, 3), (33, 33, 1), (50, 20, 0)]
"""Height, width, channels; 0: no such axis."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--retries", "1", "--timeout", "15"]
    got = subprocess.run([*command, "--wheel-dir", folder, ROOT], capture_output=True, text=True)
    if got.returncode and "hatchling" in got.stderr:
        pytest.skip("pip cannot get hatchling, which builds the wheel")
    assert got.returncode == 0, got.stderr
    (path,) = folder.glob("edgekit-*-py3-none-any.whl")
    return path


@pytest.fixture(scope="module")
def material(tiny: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles, images and what Pillow and plain engine code make of them."""
    folder = tmp_path_factory.mktemp("material")
    prepare(folder, tiny.path / BUNDLE)
    shared = Path(os.environ.get("EDGEKIT_TEST_DATA", ROOT.parent / "shared"))
    if shared.is_dir():
        prepare_third_party(folder, shared)
    return folder


def prepare(folder: Path, bundle: Path) -> None:
    (folder / "arrays").mkdir()
    shutil.copy(on_device.__file__, folder)
    shutil.copy(bundle, folder / "digits.edgekit")
    runtime_zip.write(folder / "edgekit-runtime.pyz")
    with zipfile.ZipFile(bundle) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    signed = bundles.sign(members)
    bundles.write(folder / "signed.edgekit", signed)
    bundles.write(folder / "wrong.edgekit", wrong(members))
    bundles.write(folder / "forged.edgekit", forged(signed))
    manifest = json.loads(members["manifest.json"])
    spec = Preprocessing.of(manifest["preprocessing"])
    photos = [noise(width, height, channels or 1, seed=width) for height, width, channels in PHOTOS]
    tensors = []
    for number, (photo, (*_, channels)) in enumerate(zip(photos, PHOTOS, strict=True)):
        save(folder, f"photo-{number}", photo if channels else photo[:, :, 0])
        image = Image.fromarray(photo if channels == 3 else photo[:, :, 0]).convert("RGB")
        pixels = by_pillow(image, spec)
        save(folder, f"pixels-{number}", pixels)
        tensors.append((pixels / 255 - np.array(spec.mean)) / np.array(spec.std))
        if channels == 3:
            for interpolation in ("bilinear", "bicubic"):
                for crop in (1.0, 0.875):
                    other = Preprocessing(24, 24, (0.5,) * 3, (0.5,) * 3, crop, interpolation)
                    save(folder, f"fit-short_side-{interpolation}-{crop}-{number}", by_pillow(image, other))
                    side = round(24 / crop)
                    edge = round((side - 24) / 2)
                    resized = np.asarray(image.resize((side, side), Image.Resampling[interpolation.upper()]))
                    stretched = resized[edge : edge + 24, edge : edge + 24]
                    save(folder, f"fit-stretch-{interpolation}-{crop}-{number}", stretched)
    for artifact in manifest["artifacts"]:
        fed = np.stack([as_input(tensor, artifact["input"]) for tensor in tensors])
        save(folder, f"in-{artifact['id']}", fed)
        for provider, outputs in by_engine(members[artifact["file"]], artifact["format"], fed):
            save(folder, f"out-{artifact['id']}-{provider}", outputs)
    files = write_files(folder)
    told = {
        "photos": len(PHOTOS),
        "artifacts": {artifact["id"]: artifact["format"] for artifact in manifest["artifacts"]},
        "labels": members["labels.txt"].decode().splitlines(),
        "digest": hashlib.sha256(members["manifest.json"]).hexdigest(),
        "key": bundles.public(),
        "other_key": bundles.public(Ed25519PrivateKey.from_private_bytes(bytes(32))),
        "files": files,
    }
    (folder / "told.json").write_text(json.dumps(told))


def prepare_third_party(folder: Path, shared: Path) -> None:
    third = folder / "third"
    third.mkdir()
    shutil.copy(shared / "models" / "parrot.jpg", third)
    with Image.open(third / "parrot.jpg") as image:
        np.save(third / "parrot.npy", np.asarray(image.convert("RGB")))
    generator = np.random.default_rng(0)
    for name in THIRD_PARTY:
        manifest = json.loads(third_party(shared, name, third).read_text())
        port = manifest["artifacts"][0]["input"]
        shape, floats = tuple(port["shape"]), port["dtype"] == "float32"
        low, high = (0, 256) if port["dtype"] == "uint8" else (-128, 128)
        drawn = generator.random(shape) if floats else generator.integers(low, high, shape)
        given = drawn.astype(port["dtype"])
        content = (shared / "models" / f"{name}.tflite").read_bytes()
        save(folder, f"third-in-{name}", given)
        for provider, outputs in by_engine(content, "tflite", given):
            save(folder, f"third-out-{name}-{provider}", outputs)


def save(folder: Path, name: str, array: Array) -> None:
    np.save(folder / "arrays" / f"{name}.npy", array)


def wrong(members: dict[str, bytes]) -> dict[str, bytes]:
    """The same bundle with golden outputs in another order, hashes right."""
    kept = {name: data for name, data in members.items() if name != "manifest.json"}
    manifest = json.loads(members["manifest.json"])
    del manifest["members"]
    for artifact in manifest["artifacts"]:
        name = artifact["golden"]["outputs"]
        kept[name] = bundles.npy(np.ascontiguousarray(np.load(io.BytesIO(kept[name]))[:, ::-1]))
    return bundles.seal(manifest, kept)


def forged(signed: dict[str, bytes]) -> dict[str, bytes]:
    """A signature in which one bit is another."""
    content = json.loads(signed["signature.json"])
    signature = bytearray(base64.b64decode(content["signature"]))
    signature[40] ^= 1
    content["signature"] = base64.b64encode(signature).decode()
    return {**signed, "signature.json": json.dumps(content).encode()}


def as_input(tensor: Array, port: dict[str, Any]) -> Array:
    """Real values [height, width, channels] in the layout and on the grid of a file."""
    if port["layout"] == "NCHW":
        tensor = tensor.transpose(2, 0, 1)
    if port["scale"]:
        limits = np.iinfo(port["dtype"])
        tensor = np.clip(np.rint(tensor / port["scale"]) + port["zero_point"], limits.min, limits.max)
    return tensor.astype(port["dtype"])


def by_engine(model: bytes, format: str, fed: Array) -> Iterator[tuple[str, Array]]:  # noqa: A002
    """Outputs for each input, by the engine's own interface, with each provider a device may have."""
    if format == "onnx":
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.x64quantprecision", "1")  # or int8 saturates on x86 without VNNI
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        (port,) = session.get_inputs()
        outputs = np.stack([session.run(None, {port.name: x[None]})[0][0] for x in fed])
        yield "CPUExecutionProvider", outputs
        yield "CPU", outputs  # of OpenVINO, which has to come near
        return
    kinds = litert.OpResolverType
    for provider, kind in (("XNNPACK", kinds.AUTO), ("builtin", kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES)):
        interpreter = litert.Interpreter(model_content=model, experimental_op_resolver_type=kind)
        interpreter.allocate_tensors()
        (source,), (sink,) = interpreter.get_input_details(), interpreter.get_output_details()
        rows = []
        for x in fed:
            interpreter.set_tensor(source["index"], x[None])
            interpreter.invoke()
            rows.append(interpreter.get_tensor(sink["index"])[0])
        yield provider, np.stack(rows)


def write_files(folder: Path) -> list[str]:
    """Images in files, and their pixels as Pillow decodes them."""
    (folder / "images").mkdir()
    photo = Image.fromarray(noise(6, 5)).resize((90, 70), Image.Resampling.BICUBIC)
    photo.save(folder / "images" / "photo.jpg", quality=90)
    photo.convert("L").save(folder / "images" / "photo.png")
    names = ["photo.jpg", "photo.png"]
    for number, name in enumerate(names):
        with Image.open(folder / "images" / name) as image:
            save(folder, f"file-{number}", np.asarray(image))
    return names


@pytest.fixture(scope="module", params=ENVIRONMENTS)
def device(request: pytest.FixtureRequest) -> tuple[Path, str, bool]:
    """A Python, the engine that it has, and whether it has Pillow."""
    versions, wanted, engine = ENVIRONMENTS[request.param]
    exact = {"avx_vnni", "avx512_vnni"} & set(machine.facts()["features"]) or platform.machine() != "x86_64"
    if engine == "openvino" and not exact:
        pytest.skip("OpenVINO's int8 products saturate on x86 without VNNI, so that golden vectors refuse it there")
    requirements = [text for name in wanted for text in ([name] if name == "pillow" else interpreters.extra(name))]
    return (
        interpreters.environment(interpreters.bare(*versions), requirements, request.config),
        engine,
        "pillow" in wanted,
    )


def test_the_wheel_needs_numpy_alone_on_the_oldest_python(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        stated = email.message_from_bytes(archive.read(name))
    assert stated["Requires-Python"] == ">=3.9"
    needed = [Requirement(text) for text in stated.get_all("Requires-Dist", [])]
    here = [one.name for one in needed if not one.marker or one.marker.evaluate({"python_version": "3.9", "extra": ""})]
    assert here == ["numpy"]


def test_the_suite_passes_on_the_device(
    device: tuple[Path, str, bool], material: Path, wheel: Path, tmp_path: Path
) -> None:
    python, engine, pillow = device
    installed = interpreters.pip(python, "--no-deps", "--no-compile", "--target", tmp_path / "installed", wheel)
    assert installed.returncode == 0, installed.stderr
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    environment = {**kept, "PYTHONPATH": str(tmp_path / "installed"), "PYTHONNOUSERSITE": "1", "OMP_NUM_THREADS": "1"}
    command: list[str | Path] = [python, material / "on_device.py", material, engine]
    answer = subprocess.run(command, cwd=material, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    said = json.loads(answer.stdout)
    assert said["tests"] > 20
    assert said["pillow"] == pillow
    third = (material / "third").is_dir() and engine not in ("onnxruntime", "openvino")
    assert len(said["skipped"]) == (0 if third else 1), said["skipped"]
