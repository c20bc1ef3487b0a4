"""A bundle of a few hundred bytes, written as the host does."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from edgekit.deploy import bundle

MODEL = struct.pack("<I4s7HxxiIIII", 24, b"TFL3", 14, 16, 0, 4, 8, 0, 12, 16, 12, 8, 4, 0)
"""A .tflite file without graphs: whole, but no engine runs it."""
PIXELS = {
    "kind": "image",
    "color": "rgb",
    "height": 2,
    "width": 2,
    "resize": "stretch",
    "interpolation": "bilinear",
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
}


def manifest(**changes: Any) -> dict[str, Any]:
    """A hand-written one, for `MODEL`."""
    return {
        "format": "edgekit-bundle",
        "version": "1.0",
        "name": "small",
        "task": "classification",
        "labels": "labels.txt",
        "preprocessing": PIXELS,
        "postprocessing": {"activation": "none"},
        "artifacts": [
            {
                "id": "tflite-fp32",
                "format": "tflite",
                "file": "model.tflite",
                "input": {"shape": [1, 2, 2, 3], "dtype": "float32", "layout": "NHWC"},
                "output": {"shape": [1, 2], "dtype": "float32", "layout": "NC"},
            }
        ],
        **changes,
    }


def small(path: Path) -> Path:
    """Write one; the same bytes every time."""
    bundle.write(path, bundle.Contents(manifest(), {"labels.txt": b"0\n1\n", "model.tflite": MODEL}))
    return path
