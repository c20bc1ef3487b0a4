"""Where a number comes from: package versions and the recipe's commit. Standard library only."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "torchao",
    "torch-pruning",
    "onnx",
    "onnxscript",
    "litert-torch",
    "ai-edge-quantizer",
    "onnxruntime",
    "ai-edge-litert",
    "tflite-runtime",
    "numpy",
    "pillow",
)
"""Packages whose versions a report lists."""


def of_formats(formats: Iterable[str]) -> tuple[str, ...]:
    """Packages that write and run formats which few runs have: in others, nothing depends on them."""
    return tuple(package for package in ("executorch",) if package in formats)


@cache
def versions(*packages: str) -> dict[str, str]:
    """Installed versions; packages that are not installed are left out."""
    installed = {}
    for package in packages:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return installed


def git_commit(folder: Path) -> str | None:
    """Commit of the working tree that holds a folder; None outside of git."""
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
