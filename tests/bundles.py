"""A small bundle of a real model, made by hand: two ONNX files of one classifier, whose outputs NumPy works out."""

from __future__ import annotations

import base64
import copy
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edgekit.runtime import archive
from edgekit.runtime.engines import onnxruntime as engine

HEIGHT, WIDTH = 8, 10
LABELS = ("cardboard", "glass", "métal", "paper")
STEP, ZERO = 0.02, -3
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))

Members = dict[str, bytes]


def weights() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Of the linear layer: (3, classes) and (classes,)."""
    generator = np.random.default_rng(7)
    return (
        generator.normal(size=(3, len(LABELS))).astype(np.float32),
        generator.normal(size=len(LABELS)).astype(np.float32),
    )


def pixels() -> npt.NDArray[np.uint8]:
    """Golden inputs, (3, HEIGHT, WIDTH, 3)."""
    return np.random.default_rng(1).integers(0, 256, (3, HEIGHT, WIDTH, 3), dtype=np.uint8)


def expected(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """What the model is: the mean colour, then a linear layer. (n, HEIGHT, WIDTH, 3) to (n, classes)."""
    weight, bias = weights()
    logits: npt.NDArray[np.float32] = (images.mean((1, 2)) / 255 @ weight + bias).astype(np.float32)
    return logits


def quantized(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.int8]:
    """The outputs of the int8 file."""
    steps: npt.NDArray[np.int8] = np.clip(np.rint(logits / STEP) + ZERO, -128, 127).astype(np.int8)
    return steps


@cache
def model(int8: bool) -> bytes:
    """The ONNX file: NCHW float32 to float32, or NCHW uint8 pixels to int8."""
    weight, bias = weights()
    constants: dict[str, Any] = {"w": weight, "b": bias}
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"]),
    ]
    kinds, ends = (TensorProto.FLOAT, TensorProto.FLOAT), ("x", "logits")
    if int8:
        constants |= {
            "in_step": np.float32(1 / 255), "in_zero": np.uint8(0), "step": np.float32(STEP), "zero": np.int8(ZERO)
        }  # fmt: skip
        nodes.insert(0, helper.make_node("DequantizeLinear", ["q", "in_step", "in_zero"], ["x"]))
        nodes.append(helper.make_node("QuantizeLinear", ["logits", "step", "zero"], ["scores"]))
        kinds, ends = (TensorProto.UINT8, TensorProto.INT8), ("q", "scores")
    graph = helper.make_graph(
        nodes,
        "mean",
        [helper.make_tensor_value_info(ends[0], kinds[0], [1, 3, HEIGHT, WIDTH])],
        [helper.make_tensor_value_info(ends[1], kinds[1], [1, len(LABELS)])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString())


def npy(array: npt.NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def png(image: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


@cache
def _contents() -> tuple[str, Members]:
    given = pixels()
    shape = [1, 3, HEIGHT, WIDTH]
    manifest = {
        "format": "edgekit-bundle",
        "version": "1.0",
        "name": "waste",
        "task": "classification",
        "labels": "labels.txt",
        "preprocessing": {
            "kind": "image",
            "color": "rgb",
            "height": HEIGHT,
            "width": WIDTH,
            "resize": "stretch",
            "crop": 1,
            "interpolation": "bilinear",
            "mean": [0, 0, 0],
            "std": [1, 1, 1],
        },
        "postprocessing": {"activation": "softmax"},
        "artifacts": [
            {
                "id": "int8-onnx",
                "format": "onnx",
                "precision": "int8",
                "file": "models/waste-int8.onnx",
                "input": {"shape": shape, "dtype": "uint8", "layout": "NCHW", "scale": 1 / 255, "zero_point": 0},
                "output": {"shape": [1, 4], "dtype": "int8", "layout": "NC", "scale": STEP, "zero_point": ZERO},
                "accuracy": [{"engine": "onnxruntime", "images": 3, "top1": 1, "agreement": 1, "passed": True}],
                "golden": {"outputs": "golden/int8-onnx.npy", "tolerance": 1, "tolerance_builtin": 2},
            },
            {
                "id": "fp32-onnx",
                "format": "onnx",
                "precision": "fp32",
                "file": "models/waste-fp32.onnx",
                "input": {"shape": shape, "dtype": "float32", "layout": "NCHW", "scale": None, "zero_point": None},
                "output": {"name": "logits", "shape": [1, 4], "dtype": "float32", "layout": "NC"},
                "golden": {"outputs": "golden/fp32-onnx.npy", "tolerance": 1e-5},
            },
        ],
        "golden": {"inputs": "golden/inputs.npy", "images": ["golden/0.png", "golden/1.png"]},
        "ship": [
            {"device": "pi", "artifact": "int8-onnx", "reason": "fast", "kind": "measured", "threads": 2},
            {"device": "mcu", "artifact": None, "reason": "too large"},
        ],
        "recipe": None,
        "provenance": {"edgekit": "0.1.0", "seeds": {"train": 0}},
    }
    members = {
        "labels.txt": "".join(f"{label}\n" for label in LABELS).encode(),
        "models/waste-int8.onnx": model(int8=True),
        "models/waste-fp32.onnx": model(int8=False),
        "golden/inputs.npy": npy(given),
        "golden/0.png": png(given[0]),
        "golden/1.png": png(given[1]),
        "golden/fp32-onnx.npy": npy(expected(given)),
        "golden/int8-onnx.npy": npy(quantized(expected(given))),
    }
    return json.dumps(manifest), members


def contents() -> tuple[dict[str, Any], Members]:
    """Manifest, still without hashes, and members: both may be changed."""
    manifest, members = _contents()
    return json.loads(manifest), copy.copy(members)


def change(manifest: Any, changes: Iterable[tuple[tuple[Any, ...], str, Any]]) -> None:
    """Put, drop, add or double values at places of a manifest, in place; what cannot be changed so stays."""
    for (*path, last), kind, value in changes:
        target: Any = manifest
        try:
            for key in path:
                target = target[key]
            if kind == "put":
                target[last] = value
            elif kind == "drop":
                del target[last]
            elif kind == "add":
                target[last]["x"] = value
            else:
                target[last] = target[last] * 2
        except (TypeError, KeyError, IndexError, MemoryError, OverflowError):
            continue


def seal(manifest: Mapping[str, Any], members: Mapping[str, bytes]) -> Members:
    """All members of an unsigned bundle."""
    listed = {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in members.items()}
    return {"manifest.json": json.dumps({"members": listed, **manifest}).encode(), **members}


def sign(members: Mapping[str, bytes], key: Ed25519PrivateKey = KEY) -> Members:
    """The same with a signature, as ``edgekit sign`` makes it."""
    content = {
        "algorithm": "ed25519",
        "key": public(key),
        "signature": base64.b64encode(key.sign(members["manifest.json"])),
    }
    return {**members, "signature.json": json.dumps(content, default=bytes.decode).encode()}


def public(key: Ed25519PrivateKey = KEY) -> str:
    """The public key, as devices are given it."""
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def write(path: Path, members: Mapping[str, bytes] | None = None) -> Path:
    """Write a bundle; without members the one of `contents`."""
    path.write_bytes(archive.canonical(members if members is not None else seal(*contents())))
    return path


def unpack(folder: Path, manifest: Mapping[str, Any], members: Mapping[str, bytes]) -> Path:
    """Write a manifest, as by hand, and its members beside it; the path of the manifest."""
    for name, data in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    path = folder / "waste.json"
    path.write_text(json.dumps(manifest))
    return path


def infer(data: bytes, folder: Path) -> Callable[[npt.NDArray[np.uint8]], npt.NDArray[Any]]:
    """One of the two models in ONNX Runtime: from uint8 (HEIGHT, WIDTH, 3) pixels to raw outputs."""
    path = folder / f"{hashlib.sha256(data).hexdigest()}.onnx"
    path.write_bytes(data)
    session = engine.load(str(path))

    def run(image: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        planes = image.transpose(2, 0, 1)[None]
        scaled = planes if session.input.dtype == "uint8" else (planes / 255).astype(np.float32)
        return session.run(np.ascontiguousarray(scaled))

    return run
