"""Exported files in tflite-runtime 2.14, LiteRT's predecessor, in an environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgekit import verify
from edgekit.runtime.engines import litert
from tests import nets
from tests.support import environment

VARIABLE = "EDGEKIT_TFLITE_RUNTIME_PYTHON"
WORKER = """
import sys
import numpy as np
from edgekit.runtime.engines import tflite_runtime

path, images, answers, *provider = sys.argv[1:]
session = tflite_runtime.load(path, 1, *provider)
np.save(answers, np.stack([session.run(image[None])[0] for image in np.load(images)]))
print(tflite_runtime.version(), session.provider)
"""
Array = npt.NDArray[Any]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has tflite-runtime: the one that `VARIABLE` names, or a new environment from pip."""
    if given := os.environ.get(VARIABLE):
        return Path(given)
    source = sys.executable if sys.version_info[:2] == (3, 11) else shutil.which("python3.11")
    if source is None:
        pytest.skip(f"tflite-runtime needs Python 3.11, which is not here (set {VARIABLE})")
    folder = tmp_path_factory.mktemp("tflite-runtime")
    subprocess.run([source, "-m", "venv", folder], check=True, capture_output=True)
    pip: list[str | Path] = [folder / "bin" / "pip", "install", "--quiet", "--retries", "0", "--timeout", "5"]
    got = subprocess.run([*pip, "tflite-runtime==2.14.*", "numpy<2"], capture_output=True, text=True)
    if got.returncode:
        pytest.skip(f"tflite-runtime cannot be installed (set {VARIABLE}): {got.stderr.strip().splitlines()[-1]}")
    return folder / "bin" / "python"


def outputs(python: Path, path: Path, images: Array, folder: Path) -> tuple[str, Array]:
    """What tflite-runtime says it is, and its outputs for a batch of images in the layout of the file."""
    np.save(folder / "images.npy", images)
    command: list[str | Path] = [python, "-c", WORKER, path, folder / "images.npy", folder / "answers.npy"]
    got = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert got.returncode == 0, got.stderr
    answers: Array = np.load(folder / "answers.npy")
    return got.stdout.strip(), answers


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> nets.Compressed:
    return nets.compressed(tmp_path_factory)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_exported_files_load_and_agree_in_tflite_runtime(
    every: nets.Compressed, python: Path, precision: str, tmp_path: Path
) -> None:
    artifact = every.artifacts[f"tflite-{precision}"]
    path = every.folder / artifact.path
    session = litert.load(str(path))
    images = verify.quantize(nets.images(24, seed=31).numpy().transpose(0, 2, 3, 1), session.input)
    said, got = outputs(python, path, images, tmp_path)
    wanted = np.stack([session.run(np.ascontiguousarray(image[None]))[0] for image in images])
    if precision == "fp32":
        assert said == "2.14.0 XNNPACK"
        assert np.array_equal(got.argmax(1), wanted.argmax(1))
        np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max())
    else:
        assert said == "2.14.0 builtin"  # its XNNPACK takes float only; its own kernels round twice
        steps = np.abs(got.astype(int) - wanted)
        assert steps.max() <= 2
        assert (steps <= 1).mean() > 0.95
