"""edgekit.runtime ships to small devices: Python 3.9, the standard library, NumPy, one engine."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import edgekit.runtime

ROOT = Path(edgekit.runtime.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

LIST = """
import importlib, json, pkgutil, sys
before = set(sys.modules)
import edgekit.runtime
for module in pkgutil.walk_packages(edgekit.runtime.__path__, "edgekit.runtime."):
    importlib.import_module(module.name)
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def test_runtime_imports_only_numpy() -> None:
    answer = subprocess.run([sys.executable, "-c", LIST], capture_output=True, text=True, check=True)
    loaded = json.loads(answer.stdout)
    assert {"edgekit.runtime.bench", "edgekit.runtime.engines.onnxruntime"} <= set(loaded)
    outside = {name.split(".")[0] for name in loaded} - sys.stdlib_module_names - {"edgekit"}
    assert outside == {"numpy"}
    own = {name for name in loaded if name.split(".")[0] == "edgekit"}
    assert {name for name in own if not name.startswith("edgekit.runtime")} <= {"edgekit"}


def test_importing_the_package_costs_next_to_nothing() -> None:
    code = "import sys, edgekit.runtime; print({'numpy', 'PIL', 'json', 'hashlib'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "set()\n"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_runtime_is_python_3_9_syntax(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
    futures = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    assert not tree.body or any(name.name == "annotations" for node in futures for name in node.names)
