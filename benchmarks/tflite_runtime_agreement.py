"""Do our TFLite files give the same results in tflite-runtime 2.14 as in LiteRT? Real MobileNetV2, real images.

Usage::

    python benchmarks/tflite_runtime_agreement.py                 # compresses, and makes an environment with pip
    python benchmarks/tflite_runtime_agreement.py run --images 100 --python env/bin/python

`run` is a finished run directory of the recipe mobilenetv2-imagenet; the shared data folder must exist
(EDGEKIT_DATA, or ../shared beside the checkout). tflite-runtime needs Python 3.11 or older and numpy < 2. Each engine
runs in its own process. int8 files run on tflite-runtime's built-in kernels, which round twice per kernel where
XNNPACK rounds once; LiteRT's built-in kernels are shown beside them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit import checkpoint_file
from edgekit.data import index_file
from edgekit.data.transforms import evaluate, open_image
from edgekit.disk import json_file
from edgekit.runtime.port import Port, quantize
from edgekit.types import Artifact

ROOT = Path(__file__).parents[1]
WORKER = """
import sys
import numpy as np
from edgekit.runtime import engine_menu

name, provider, path, images, answers = sys.argv[1:]
engine = engine_menu.engine(name)
session = engine.load(path, 1, provider or None)
np.save(answers, np.stack([session.run(image[None])[0] for image in np.load(images)]))
print(name, engine.version(), session.provider)
"""
Array = npt.NDArray[Any]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--python", type=Path, help="Python of an environment with tflite-runtime")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        python = arguments.python or _environment(folder / "env")
        run = arguments.run or _compressed(folder / "run")
        checkpoint = checkpoint_file.load(run / "2-train")
        index, root = index_file.load_rooted(run / "1-data")
        samples = index.split("test")[: arguments.images]
        spec = checkpoint.input
        pixels = np.stack([evaluate(open_image(root / sample.path, spec), spec) for sample in samples])
        artifacts = {
            artifact.id: artifact for artifact in json_file.load(run / "6-export" / "artifacts.json", list[Artifact])
        }
        labels = np.array([sample.label for sample in samples])
        exact = None
        for name in ("tflite-fp32", "tflite-int8"):
            artifact = artifacts[name]
            port = Port("", artifact.input.shape, artifact.input.dtype, artifact.input.scale, artifact.input.zero_point)
            np.save(folder / "images.npy", quantize(np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)), port))
            file = run / "6-export" / artifact.path
            said, like = _outputs(Path(sys.executable), "litert", "", file, folder)
            exact = like if exact is None else exact
            print(f"{name} on {len(samples)} images; top-1 of {said}: {(like.argmax(1) == labels).mean():.2%}")
            others = [(python, "tflite_runtime", "")]
            others += [(Path(sys.executable), "litert", "builtin")] if name == "tflite-int8" else []
            for interpreter, engine, provider in others:
                said, got = _outputs(interpreter, engine, provider, file, folder)
                print(f"  {said}: {_compared(got, like, exact, labels)}")


def _compared(got: Array, like: Array, exact: Array, labels: Array) -> str:
    best = got.argmax(1)
    same = f"top-1 {(best == labels).mean():.2%}, the same class on {(best == like.argmax(1)).mean():.2%}"
    difference = np.abs(got.astype(np.float64) - like)
    if got.dtype == np.float32:
        return f"{same}, differs by at most {difference.max() / np.abs(like).max():.1e} of the largest logit"
    return (
        f"{same} (as fp32: {(best == exact.argmax(1)).mean():.2%}, LiteRT "
        f"{(like.argmax(1) == exact.argmax(1)).mean():.2%}), at most {difference.max():.0f} steps, "
        f"{(difference <= 1).mean():.2%} of outputs within one"
    )


def _outputs(python: Path, engine: str, provider: str, file: Path, folder: Path) -> tuple[str, Array]:
    command: list[str | Path] = [
        python,
        "-c",
        WORKER,
        engine,
        provider,
        file,
        folder / "images.npy",
        folder / "answers.npy",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = subprocess.run(command, check=True, env=environment, capture_output=True, text=True).stdout
    answers: Array = np.load(folder / "answers.npy")
    return said.strip(), answers


def _environment(folder: Path) -> Path:
    source = sys.executable if sys.version_info[:2] == (3, 11) else shutil.which("python3.11")
    if source is None:
        raise SystemExit("tflite-runtime needs Python 3.11: name one that has it with --python")
    subprocess.run([source, "-m", "venv", folder], check=True)
    subprocess.run([folder / "bin" / "pip", "install", "--quiet", "tflite-runtime==2.14.*", "numpy<2"], check=True)
    return folder / "bin" / "python"


def _compressed(folder: Path) -> Path:
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "edgekit",
        "compress",
        "mobilenetv2-imagenet",
        "--out",
        folder,
        "--quiet",
    ]
    only = ("--set", 'export.formats=["tflite"]', "--set", "lower.measure=false", "--set", "verify.images=20")
    subprocess.run([*command, *only], check=True, stdout=subprocess.DEVNULL)
    return folder


if __name__ == "__main__":
    main()
