"""Where an installed engine would run each operator, read back from the engine itself once it has loaded the file."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from edgekit.inspect.file_report import Use
from edgekit.runtime import engine_menu, litert_gpu
from edgekit.runtime.errors import RuntimeFault, first_line

SKIPPED = {"AzureExecutionProvider", *litert_gpu.PROVIDERS}
"""Providers that run nothing here, or that TFLite's interpreter does not know."""


def uses(name: str, path: str) -> list[Use]:
    """One entry for each provider of an engine; a single one if the engine is not installed.

    Args:
        name: a module of ``edgekit/runtime/engines``.
        path: the file.
    """
    engine = engine_menu.engine(name)
    try:
        version = engine.version()
    except RuntimeFault as fault:
        return [Use(name, None, trouble=str(fault))]
    package: Any = engine._package()  # type: ignore[attr-defined]
    entries = []
    for provider in ("cpu",) if engine.FORMAT == "executorch" else engine.providers():
        if provider in SKIPPED:
            continue
        look: Any = {"onnx": _ort, "executorch": _executorch}.get(engine.FORMAT, _tflite)
        try:
            entries.append(look(package, name, version, provider, path))
        except Exception as error:  # engines raise their own exception classes
            entries.append(Use(name, version, provider, trouble=f"cannot load it: {_reason(error, path)}"))
    return entries


def _ort(package: Any, name: str, version: str, provider: str, path: str) -> Use:
    """Execution providers from the session's own record; kernels from the optimized model that it saves."""
    options = package.SessionOptions()
    options.graph_optimization_level = package.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        if provider == "CPUExecutionProvider":  # graphs compiled by other providers cannot be saved
            options.optimized_model_filepath = str(optimized)
        session = package.InferenceSession(path, options, providers=[provider])
        kernels = _kinds(optimized.read_bytes()) if optimized.exists() else {}
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return Use(name, version, provider, kernels=kernels, trouble="reports which provider runs what only since 1.24")
    runs: dict[str, Counter[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        runs.setdefault(part.ep_name, Counter()).update(node.op_type for node in part.get_nodes())
    return Use(name, version, provider, {who: _most_first(ops) for who, ops in runs.items()}, kernels)


def _kinds(data: bytes) -> dict[str, int]:
    try:
        import onnx
    except ModuleNotFoundError:
        return {}
    return _most_first(Counter(node.op_type for node in onnx.load_model_from_string(data).graph.node))


def _tflite(package: Any, name: str, version: str, provider: str, path: str) -> Use:
    """Delegates appear as operators after those of the file; each replaces those between its inputs and outputs."""
    kinds = package.OpResolverType
    builtin = provider == "builtin"
    resolver = kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES if builtin else kinds.AUTO
    interpreter = package.Interpreter(model_path=path, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    ops = interpreter._get_ops_details()
    delegates = [op for op in ops if _delegate(op)]
    own = [op for op in ops if not _delegate(op)]
    maker = {int(index): op["index"] for op in own for index in op["outputs"]}
    taken: set[int] = set()
    for delegate in delegates:
        ends = {int(index) for index in delegate["inputs"]}
        open_ = [int(index) for index in delegate["outputs"]]
        while open_:
            made = maker.get(open_.pop())
            if made is not None and made not in taken:
                taken.add(made)
                open_ += [int(index) for index in ops[made]["inputs"] if int(index) not in ends]
    runs = {
        who: _most_first(Counter(op["op_name"] for op in own if (op["index"] in taken) == (who != "builtin")))
        for who in dict.fromkeys((provider, "builtin"))
    }
    return Use(name, version, provider, {who: ops for who, ops in runs.items() if ops}, partitions=len(delegates))


def _executorch(package: Any, name: str, version: str, provider: str, path: str) -> Use:
    """The file itself says what the delegate takes; loading shows that this build takes it."""
    from edgekit.runtime import pte

    session = engine_menu.engine(name).load(path, 1, provider)
    session.close()
    found = pte.contents(Path(path).read_bytes(), path)
    runs = {"XNNPACK": Counter(kind for kind, _ in found.kernels), "builtin": Counter(found.operators)}
    taken = {who: _most_first(ops) for who, ops in runs.items() if ops}
    return Use(name, version, session.provider, taken, partitions=len(found.delegates))


def _delegate(op: Any) -> bool:
    return "DELEGATE" in op["op_name"].upper()


def _most_first(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _reason(error: Exception, path: str) -> str:
    return first_line(error).replace(path, Path(path).name)
