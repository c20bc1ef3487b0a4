"""Where latency models are kept between runs: ``$XDG_CACHE_HOME/edgekit/latency``, a JSON file each."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from edgekit.disk import json_file
from edgekit.errors import InputError
from edgekit.latency.model import LatencyModel, Subject
from edgekit.latency.shapes import LayerShape


@dataclass(frozen=True)
class Found:
    """A kept model, or why there is none to use."""

    model: LatencyModel | None
    why: str = ""
    """In one line; empty if there is a model."""


def folder() -> Path:
    """Where models are kept."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home).absolute() / "edgekit" / "latency"


def family(name: str, whole: Sequence[LayerShape]) -> str:
    """A network's name with a hash of its layers, as `Subject.family` needs it: names alone do not tell widths."""
    layers = [(shape.name, shape.kind, shape.inputs, shape.outputs, shape.kernel, shape.groups) for shape in whole]
    return f"{name}-{_digest(layers)}"


def save(model: LatencyModel) -> Path:
    """Keep a model in place of one for another version of the engine."""
    path = _path(model.subject)
    path.parent.mkdir(parents=True, exist_ok=True)
    json_file.save(path, model)
    return path


def find(subject: Subject) -> Found:
    """The model for exactly this; one of another engine version is not used, as kernels change."""
    path = _path(subject)
    if not path.is_file():
        return Found(None, f"{subject.engine} on {subject.device} has not been measured with {subject.family} yet")
    try:
        model = json_file.load(path, LatencyModel)
    except InputError as error:
        return Found(None, str(error))
    if model.subject.engine_version != subject.engine_version:
        return Found(
            None,
            f"the latency model of {subject.family} on {subject.device} was measured with {subject.engine} "
            f"{model.subject.engine_version}, but {subject.engine_version} runs there now",
        )
    return Found(model)


def kept(device: str, family: str) -> list[LatencyModel]:
    """All models of a network on a device: any engine, version, format, resolution and unit; unreadable ones are not.

    Args:
        device: `Subject.device`.
        family: as `family` returns it.
    """
    found = []
    for path in sorted(folder().glob("*.json")):
        try:
            model = json_file.load(path, LatencyModel)
        except InputError:
            continue
        if (model.subject.device, model.subject.family) == (device, family):
            found.append(model)
    return found


def _path(subject: Subject) -> Path:
    key = asdict(subject)
    del key["engine_version"]
    return folder() / f"{subject.engine}-{subject.precision}-{_digest(sorted(key.items()))}.json"


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:12]
