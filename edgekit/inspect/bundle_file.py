"""Bundles made by edgekit, and hand-written manifests beside a model."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.errors import InputError
from edgekit.inspect import dispatch, file_report
from edgekit.inspect.file_report import FileReport, Port
from edgekit.runtime.errors import RuntimeFault
from edgekit.runtime.terminal import line


@dataclass(frozen=True)
class ArtifactReport:
    """A model of the bundle: what the manifest says about it, and what the file contains."""

    id: str
    says: dict[str, Any]
    """Its entry in the manifest."""
    file: FileReport


@dataclass(frozen=True)
class BundleReport:
    """A bundle."""

    file: str
    format: str
    bytes: int
    name: str
    description: str
    digest: str
    """SHA-256 of the manifest: the identity of the bundle."""
    signed_by: str | None
    """Public key, in base64, of the valid signature; None: not signed. Says nothing about whether to trust that key."""
    version: str
    """Version of the manifest."""
    task: str
    labels: int
    preprocessing: dict[str, Any]
    postprocessing: dict[str, Any]
    artifacts: tuple[ArtifactReport, ...]
    golden: dict[str, Any] | None
    ship: tuple[dict[str, Any], ...]
    recipe: dict[str, Any] | None
    provenance: dict[str, Any]


def matches(data: bytes) -> bool:
    """Whether these are the bytes of a zip file or of JSON."""
    return data[:4] == b"PK\x03\x04" or data.lstrip()[:1] == b"{"


def inspect(path: Path, engines: bool = True) -> BundleReport:
    """Read a bundle. Hashes and any signature are verified; golden vectors are not replayed.

    Args:
        path: the file.
        engines: also load its models with each installed engine.

    Raises:
        InputError: the bundle or one of its models is damaged, or a model needs something outside the bundle.
        MissingPackage: the package that reads a model is not installed.
    """
    from edgekit.runtime.bundle import open_bundle

    try:
        bundle = open_bundle(str(path), verify="hash")
        manifest = bundle.manifest
        artifacts = []
        with tempfile.TemporaryDirectory() as folder:
            for index, says in enumerate(manifest["artifacts"]):
                copy = Path(folder) / f"{index}-{Path(says['file']).name}"
                copy.write_bytes(bundle.model(says))
                report = dispatch.model(copy, f"{path}: {says['file']}", engines)
                artifacts.append(
                    ArtifactReport(says["id"], says, replace(report, notes=report.notes + _differ(says, report)))
                )
    except RuntimeFault as fault:
        raise InputError(str(fault)) from fault
    return BundleReport(
        file=str(path),
        format="bundle",
        bytes=path.stat().st_size,
        name=manifest["name"],
        description=manifest.get("description", ""),
        digest=bundle.digest,
        signed_by=bundle.signed_by,
        version=manifest["version"],
        task=manifest["task"],
        labels=len(bundle.labels),
        preprocessing=manifest["preprocessing"],
        postprocessing=manifest["postprocessing"],
        artifacts=tuple(artifacts),
        golden=manifest.get("golden"),
        ship=tuple(manifest.get("ship", ())),
        recipe=manifest.get("recipe"),
        provenance=manifest.get("provenance", {}),
    )


def _differ(says: dict[str, Any], report: FileReport) -> tuple[str, ...]:
    """Notes on each input or output that the manifest and the file disagree on."""
    notes = []
    for side, ports in (("input", report.inputs), ("output", report.outputs)):
        claimed = (tuple(says[side]["shape"]), says[side]["dtype"])
        if len(ports) != 1 or claimed != (ports[0].shape, ports[0].dtype):
            notes.append(f"the manifest gives the {side} as {claimed[1]} {claimed[0]}, but the file differs")
        elif ports[0].scale is not None and not _same_grid(says[side], ports[0]):
            notes.append(f"the manifest and the file disagree on the scale or zero point of the {side}")
    return tuple(notes)


def _same_grid(says: dict[str, Any], port: Port) -> bool:
    return says.get("zero_point") == port.zero_point and math.isclose(
        says.get("scale") or 0, port.scale or 0, rel_tol=1e-6
    )


def text(report: BundleReport) -> str:
    """Human-readable report."""
    signature = f"valid, by {report.signed_by} (compare this key: anyone can sign)" if report.signed_by else "none"
    lines = [
        f"{report.file}: bundle (manifest {report.version}), {file_report.size(report.bytes)}",
        f"name        {report.name}{f': {report.description}' if report.description else ''}",
        f"identity    {report.digest}",
        f"signature   {signature}",
        f"task        {report.task}, {report.labels or 'no'} labels, {report.postprocessing['activation']} at the end",
        f"pixels      {_words(report.preprocessing)}",
        f"golden      {_golden(report)}",
    ]
    for entry in report.ship:
        how = ", ".join(str(entry[key]) for key in ("artifact", "engine", "kind") if entry.get(key)) or "nothing"
        lines.append(f"ship        {entry['device']}: {how}: {entry['reason']}")
    lines += [f"provenance  {key}: {_words(value)}" for key, value in report.provenance.items()]
    for artifact in report.artifacts:
        lines += ["", f"[{artifact.id}]", *_accuracy(artifact.says), *file_report.lines(artifact.file)]
    return "\n".join(map(line, lines))


def _golden(report: BundleReport) -> str:
    if report.golden is None:
        return "none"
    outputs = [artifact.id for artifact in report.artifacts if "golden" in artifact.says]
    images = len(report.golden.get("images", ()))
    return f"{report.golden['inputs']}, {images} encoded images, outputs for {', '.join(outputs) or 'none'}"


def _accuracy(says: dict[str, Any]) -> list[str]:
    return [
        f"accuracy    {entry['engine']}: top-1 {entry['top1']:.2%} on {entry['images']} images,"
        f" {entry['agreement']:.2%} agree with torch"
        for entry in says.get("accuracy", ())
    ]


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(each)}" for key, each in value.items())
    if isinstance(value, list):
        return "(" + ", ".join(map(_words, value)) + ")"
    return str(value)
