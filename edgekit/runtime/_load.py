"""From a file to a loaded model: which artifact, which engine, and whether the bundle can be trusted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgekit.runtime import engine_menu
from edgekit.runtime._model import Model, replay
from edgekit.runtime.bundle import Bundle, begin
from edgekit.runtime.engine_menu import installed as installed
from edgekit.runtime.errors import RuntimeFault, first_line

if TYPE_CHECKING:
    from edgekit.runtime.port import Engine, Session

_PREFERENCE = ("litert", "onnxruntime", "tflite_runtime", "tensorflow", "openvino", "executorch")
"""The exact ones of a format first, which give the outputs that were verified."""


def load(
    path: str | os.PathLike[str],
    engine: str = "auto",
    threads: int | None = None,
    provider: str | None = None,
    artifact: str | None = None,
    verify: str = "golden",
    trusted_keys: Sequence[str | os.PathLike[str]] = (),
    require_signature: bool = False,
) -> Model:
    """Open a bundle (or a hand-written manifest, ``*.json``, beside a model file) and check it.

    ``engine="auto"`` goes through the artifacts in the manifest's order and takes the first installed engine that runs
    one: that of the verdict, then litert, onnxruntime, tflite_runtime, tensorflow, openvino, executorch. If that engine
    then fails, no other is tried.

    Args:
        path: the file.
        engine: a name, or auto.
        threads: per inference. None: what the manifest's `ship` says for this artifact and engine, but no more than
            there are cores; 1 if it says nothing.
        provider: execution provider of the engine; None is its default on the CPU.
        artifact: id of the one to run; None is the first one that the engine runs.
        verify: "golden" checks the structure and every hash, replays the golden vectors on this engine, and decodes
            the golden images if Pillow is installed; "hash" skips the golden checks, "off" the hashes as well.
        trusted_keys: public keys in base64, or files that hold one.
        require_signature: refuse a bundle that none of these keys signed.

    Raises:
        RuntimeFault: the file is damaged or not signed as asked for, no engine is installed (the message holds the pip
            command) or the engine cannot use the model, the model does not match the manifest, or its outputs here
            differ from the golden vectors.
    """
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise RuntimeFault(f"threads={threads!r}: must be a whole number of at least 1")
    bundle, wait = begin(path, verify, trusted_keys, require_signature)
    try:
        chosen, name = choose(bundle, engine, artifact)
        threads = threads or shipped_threads(bundle.manifest, chosen["id"], name)
        module = engine_menu.engine(name)
        version = module.version()
    finally:
        wait()
    session = open_session(bundle, chosen, module, threads, provider)
    try:
        info = {
            "path": bundle.path, "name": bundle.manifest["name"], "artifact": chosen["id"], "format": chosen["format"],
            "precision": chosen.get("precision"), "engine": name, "version": version,
            "provider": session.provider, "threads": threads, "input": dict(chosen["input"]),
            "output": dict(chosen["output"]), "labels": len(bundle.labels), "digest": bundle.digest,
            "signed_by": bundle.signed_by, "golden": None,
        }  # fmt: skip
        model = Model(bundle, chosen, session, info)
        if verify == "golden":
            info["golden"] = replay(model, bundle, chosen)
    except BaseException:
        session.close()
        raise
    return model


def open_session(
    bundle: Bundle, artifact: dict[str, Any], module: Engine, threads: int, provider: str | None
) -> Session:
    """The engine's session on an artifact of a bundle.

    Raises:
        RuntimeFault: the engine is not installed, or cannot use it.
    """
    where = f"{bundle.path}: {artifact['file']}"
    content = bundle.model(artifact)
    try:
        return module.load(content, threads, provider, where)
    except RuntimeFault:
        raise
    except Exception as error:  # whatever an engine throws
        raise RuntimeFault(f"{where}: {module.PACKAGE} cannot load it: {first_line(error)}") from error


def choose(bundle: Bundle, engine: str = "auto", artifact: str | None = None) -> tuple[dict[str, Any], str]:
    """The artifact to run, and the name of the engine; see `load`.

    Raises:
        RuntimeFault: there is no such engine or artifact, the engine does not run it, or none that does is installed.
    """
    if engine != "auto":
        return bundle.artifact(artifact, (engine_menu.engine(engine).FORMAT,)), engine
    names = sorted(engine_menu.engines(), key=lambda name: (*_PREFERENCE, name).index(name))
    modules = {name: engine_menu.engine(name) for name in names}
    artifacts = bundle.manifest["artifacts"] if artifact is None else [bundle.artifact(artifact)]
    for entry in artifacts:
        shipped = _shipped(bundle.manifest, entry["id"])
        for name in sorted(modules, key=lambda name: name != shipped):
            if entry["format"] == modules[name].FORMAT and installed(modules[name]):
                return entry, name
    formats = {entry["format"] for entry in artifacts}
    commands = [f"pip install {module.PACKAGE}" for module in modules.values() if module.FORMAT in formats]
    raise RuntimeFault(f"{bundle.path}: no engine that runs it is installed: {' or '.join(commands)}")


def _shipped(manifest: dict[str, Any], artifact: str) -> str | None:
    """The engine that `ship` states for an artifact; None if it states none, or several."""
    names = {row.get("engine") for row in manifest.get("ship", ()) if row["artifact"] == artifact}
    return names.pop() if len(names) == 1 else None


def shipped_threads(manifest: dict[str, Any], artifact: str, engine: str) -> int:
    """Threads that `ship` states for an artifact and engine, no more than there are cores; 1 if it states none."""
    for row in manifest.get("ship", ()):
        if row["artifact"] == artifact and row.get("engine") in (None, engine) and row.get("threads"):
            from edgekit.runtime import machine

            return max(1, min(int(row["threads"]), machine.cores()))
    return 1
