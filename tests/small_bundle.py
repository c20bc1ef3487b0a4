"""A bundle of a few hundred bytes, written as the host does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.deploy import bundle

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
    """A hand-written one, of a model that no engine would take."""
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
    bundle.write(path, bundle.Contents(manifest(), {"labels.txt": b"0\n1\n", "model.tflite": b"model"}))
    return path
