"""Exported files in tflite-runtime 2.14, LiteRT's predecessor, in an environment of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgekit.runtime import port
from edgekit.runtime.engines import litert
from tests import interpreters, nets
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
def python(pytestconfig: pytest.Config) -> Path:
    """A Python that has tflite-runtime: the one that `VARIABLE` names, or a new environment from pip."""
    if given := os.environ.get(VARIABLE):
        return Path(given)
    return interpreters.environment(interpreters.bare("3.11"), [*interpreters.extra("tflite"), "pillow"], pytestconfig)


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
    images = port.quantize(nets.images(24, seed=31).numpy().transpose(0, 2, 3, 1), session.input)
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
