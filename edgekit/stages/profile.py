"""Measure every exported file on every device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit import _json
from edgekit.provenance import versions
from edgekit.runtime import machine
from edgekit.stages._run import Run


def skip(run: Run) -> str:
    """Where there is nothing to measure, or nowhere."""
    if "export" not in run.done:
        return "there are no exported files"
    return "" if run.job.devices else "the recipe has no [profile] section and no --device was given"


def inputs(run: Run) -> dict[str, Any]:
    """The devices, this machine, the files and the engines."""
    facts = machine.facts()
    return {
        "devices": {name: device.model_dump(exclude={"limits"}) for name, device in run.job.devices.items()},
        "machine": {key: facts[key] for key in ("hostname", "arch", "cpu", "cores")},
        "export": run.digest("export"),
        "versions": versions("onnxruntime", "ai-edge-litert", "tflite-runtime"),
    }


def build(run: Run, work: Path) -> None:
    """Write ``profile.json``."""
    from edgekit.profile.run import profile

    found = profile(run.artifacts, run.done["export"].path, run.job.devices, run.console)
    _json.save(work / "profile.json", found)
