"""Golden vectors: real inputs with the outputs that each file gives for them here, for a device to reproduce."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.data.transforms import array, decode, fit, normalise, preprocessing, strict_pillow
from edgekit.errors import Shortfall
from edgekit.runtime import engine_menu
from edgekit.runtime.errors import RuntimeFault
from edgekit.scores import Accuracy
from edgekit.types import HOST_ENGINES, Artifact, InputSpec, Sample
from edgekit.verify import files as verify

COUNT = 8
LARGEST = 256 << 10
"""Maximum bytes of an image file; of a larger one, the resized pixels are stored instead."""
SUFFIXES = {"JPEG": "jpg", "PNG": "png"}
BUILTIN = 16
"""Steps by which TFLite's built-in kernels may differ from XNNPACK's: they round twice per kernel. On MobileNetV2,
``benchmarks/tflite_runtime_agreement.py`` saw up to 10."""
FLOAT_LAYERS = 4
"""Minimum tolerance in steps of an int8 file with float layers: another order of summation may flip a rounding."""
FLOOR = {"fp16": 1e-2}
"""Minimum tolerance of a float file by precision, as a share of the largest output. fp16: some CPUs also compute in
half precision, whose unit roundoff is 5e-4 per operation (IEEE 754), while others compute in single."""
USUAL_FLOOR = 1e-3
"""The same for other precisions: 1000 times the effect of summation order in single precision, far below any bug's."""


@dataclass(frozen=True)
class Golden:
    """Inputs of the golden vectors."""

    images: dict[str, bytes]
    """Encoded images by member name, in order."""
    pixels: npt.NDArray[np.uint8]
    """(n, height, width, channels): the images after resizing and cropping."""


def choose(samples: Sequence[Sample], seed: int, count: int = COUNT) -> list[Sample]:
    """Some of the samples, spread over the classes: one of each class in turn, in an order set by the seed."""

    def place(word: str) -> str:
        return hashlib.sha256(f"{seed}/{word}".encode()).hexdigest()

    by_class: dict[int, list[Sample]] = {}
    for sample in sorted(samples, key=lambda sample: (place(sample.sha256), sample.path)):
        by_class.setdefault(sample.label, []).append(sample)
    ranked = [
        (turn, place(str(label)), sample) for label, row in by_class.items() for turn, sample in enumerate(row[:count])
    ]
    return [sample for *_, sample in sorted(ranked, key=lambda item: item[:2])[:count]]


def inputs(samples: Sequence[Sample], root: Path, spec: InputSpec) -> Golden:
    """Read the samples. JPEG and PNG files are kept as they are; large files and other formats become `_framed`."""
    from PIL import Image

    images: dict[str, bytes] = {}
    pixels = []
    color = preprocessing(spec).color
    with strict_pillow():
        for number, sample in enumerate(samples):
            file = (root / sample.path).read_bytes()
            fitted = array(fit(decode(file, color).image, spec))
            with Image.open(io.BytesIO(file)) as image:
                suffix = SUFFIXES.get(image.format or "", "")
            if not suffix or len(file) > LARGEST:
                suffix, file = "png", _framed(fitted, spec)
            images[f"golden/{number}.{suffix}"] = file
            pixels.append(fitted)
    return Golden(images, np.stack(pixels))


def _framed(fitted: npt.NDArray[np.uint8], spec: InputSpec) -> bytes:
    """A PNG of such a size that fitting it crops without resizing, and so gives exactly these pixels."""
    from PIL import Image

    channels, height, width = spec.shape
    high, wide = (
        (height, width) if spec.resize == "letterbox" else (round(height / spec.crop), round(width / spec.crop))
    )
    top, left = round((high - height) / 2), round((wide - width) / 2)
    canvas = np.zeros((high, wide, channels), np.uint8)
    canvas[top : top + height, left : left + width] = fitted
    file = io.BytesIO()
    Image.fromarray(canvas[:, :, 0] if channels == 1 else canvas).save(file, "PNG")
    return file.getvalue()


def answers(golden: Golden, spec: InputSpec, artifact: Artifact, folder: Path) -> tuple[str, npt.NDArray[Any]]:
    """Outputs of a file in the engine that verified it.

    Returns:
        The engine, and its raw outputs, shape (n, classes), in the file's own dtype.

    Raises:
        Shortfall: the engine cannot run the file.
    """
    name = HOST_ENGINES[artifact.format]
    try:
        session = engine_menu.engine(name).load(str(folder / artifact.path), threads=1)
        values = [normalise(pixels, spec)[None] for pixels in golden.pixels]
        rows = [session.run(verify.feed(artifact, session, each)) for each in values]
        session.close()
    except RuntimeFault as fault:
        raise Shortfall(f"bundle: {artifact.id}: {fault}") from fault
    return name, np.stack([row.reshape(-1) for row in rows])


def tolerance(
    artifact: Artifact, rows: Sequence[Accuracy], outputs: npt.NDArray[Any], step: float | None, bound: float
) -> float:
    """How far a device's outputs may be from `answers`, in the manifest's unit.

    The unit is steps for integer outputs, else a share of the largest absolute output. An int8 file may be off by as
    many steps as it was from torch in verification, and by at least one, as either of the two may be right.

    Args:
        artifact: the file.
        rows: its verification results.
        outputs: its golden outputs.
        step: real value of one step of an int8 file's output; None if that output is float.
        bound: tolerance of verification for a float file, as a share of the largest output.
    """
    integers = np.issubdtype(outputs.dtype, np.integer)
    if artifact.precision == "int8":
        steps = float(
            max(1, math.ceil(max(row.max_steps or 0 for row in rows)), FLOAT_LAYERS if artifact.float_ops else 0)
        )
        if integers:
            return steps
        largest = float(np.abs(outputs).max()) or 1.0
        return (steps + 0.5) * (step or 2 * largest / 255) / largest  # half a step is float noise
    share = max(bound, FLOOR.get(artifact.precision, USUAL_FLOOR))
    if integers:
        zero = artifact.output.zero_point or 0
        return float(max(1, math.ceil(share * float(np.abs(outputs.astype(np.int64) - zero).max()))))
    return share


def npy(array: npt.NDArray[Any]) -> bytes:
    """The bytes of a ``.npy`` file."""
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(array), allow_pickle=False)
    return file.getvalue()
