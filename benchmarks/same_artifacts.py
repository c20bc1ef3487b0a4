"""Whether two checkouts of edgekit make the same files: ``python benchmarks/same_artifacts.py OLD [RECIPE ...]``.

OLD is another checkout, e.g. from ``git worktree add ../old REVISION``. Both compress each recipe, on one thread, with
all rewrites applied (a choice by timing would differ from run to run), and the SHA-256 of the files is compared. The
exit code is 1 if something differs.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parents[1]
FILES = (
    "2-train/model.safetensors",
    "3-prune/model.safetensors",
    "5-quantize/plan.json",
    *(f"6-export/model-{precision}.{suffix}" for precision in ("fp32", "int8") for suffix in ("onnx", "tflite")),
)


def compress(checkout: Path, recipe: str, out: Path) -> dict[str, str]:
    """SHA-256 of what a checkout makes of a recipe, by file. A run that fails at verification has its files, too."""
    words = [sys.executable, "-m", "edgekit", "compress", recipe, "--out", str(out), "--set", "lower.measure=false"]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    subprocess.run(words, cwd=checkout, env=environment, check=False)
    paths = (out / name for name in FILES)
    return {str(path.relative_to(out)): _sha256(path) for path in paths if path.is_file()}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> int:
    """Compare recipe by recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("recipes", nargs="*", default=["digits"])
    parser.add_argument("--out", type=Path, default=Path("runs/same-artifacts"))
    given = parser.parse_args()
    same = True
    for recipe in given.recipes:
        before, after = (
            compress(checkout.resolve(), recipe, (given.out / name / recipe).resolve())
            for name, checkout in (("old", given.old), ("new", HERE))
        )
        for name in sorted({*before, *after}):
            equal = before.get(name) == after.get(name)
            same &= equal
            print(f"{recipe:24} {name:28} {'same' if equal else 'DIFFERS'}  {after.get(name, 'missing')[:16]}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
