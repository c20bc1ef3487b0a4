"""Write the files that devices run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.config.recipe import ExportSection, QuantizeSection
from edgekit.disk import json_file
from edgekit.errors import Shortfall
from edgekit.pipeline.port import Skip
from edgekit.pipeline.provenance import of_formats, versions
from edgekit.pipeline.stages import lower
from edgekit.pipeline.state import Run
from edgekit.types import INTEGERS, Artifact, InputSpec, Quantization, Rewrite, Sample, Size, Skipped, artifact_id

INT16X8 = "int16x8.pt2"
"""The graph that the int16x8 file was made from, for the verify stage."""

RESUMABLE = False


def section(run: Run) -> ExportSection | Skip:
    """The [export] section; skipped if the recipe has none."""
    return run.recipe.export or Skip("the recipe has no [export] section")


def inputs(run: Run, section: ExportSection) -> dict[str, Any]:
    """The section and the graphs."""
    return {
        "section": section.model_dump(),
        "network": run.network.digest,
        "quantize": run.digest("quantize"),
        "keep_float": run.recipe.quantize.may_be_float if run.recipe.quantize else [],
        "calibration": [run.digest("data"), versions("numpy", "pillow")] if "int16x8" in section.precisions else None,
        "rewrites": run.recipe.lower.rewrites,
        "where": lower.where(run, "export"),
        "versions": versions(
            "torch", "torchao", "onnx", "onnxscript", "litert-torch", "ai-edge-quantizer", *of_formats(section.formats)
        ),
    }


def build(run: Run, section: ExportSection, work: Path) -> None:
    """Write one file per precision and format, and ``artifacts.json``, ``rewrites.json``, ``skipped.json``."""
    from edgekit.export.port import exporter

    artifacts: list[Artifact] = []
    rows: list[Rewrite] = []
    skipped: list[Skipped] = []
    keep_float = run.recipe.quantize.may_be_float if run.recipe.quantize else []
    precisions = [word for word in dict.fromkeys(section.precisions) if word != "int8" or "quantize" in run.done]
    with run.console.bar("export", len(precisions) * len(section.formats)) as advance:
        for precision in precisions:
            advance(0, f"{precision}: the graph in torch")
            graph, size = _source(run, precision, work)
            for name in dict.fromkeys(section.formats):
                file = artifact_id(name, precision)
                made_by = exporter(name)
                refusal = made_by.REFUSED.get(precision, "")
                advance(0, f"writing {file}")
                try:
                    if not refusal:
                        rewrites = lower.for_file(run, made_by, name, precision, work, rows)
                        artifacts.append(made_by.export(graph, size, precision, work, rewrites, keep_float))
                except Shortfall as trouble:
                    if section.on_failure == "stop":
                        raise Shortfall(f'{trouble}; export.on_failure = "skip" leaves this file out') from trouble
                    refusal = str(trouble).removeprefix(f"{file}: ")
                if refusal:
                    skipped.append(Skipped(file, refusal))
                advance(1)
    if not artifacts:
        raise Shortfall("export: no file was written: " + "; ".join(f"{one.artifact}: {one.reason}" for one in skipped))
    made: Quantization | None = run.read("quantize", "quantization.json", Quantization)
    if made:
        artifacts = [_calibrated(artifact, made) for artifact in artifacts]
    json_file.save(work / "artifacts.json", artifacts)
    for line in _floats(artifacts):
        run.console.say(f"  {line}")
    written = {artifact.id for artifact in artifacts}
    json_file.save(work / "rewrites.json", [row for row in rows if row.artifact in written])
    json_file.save(work / "skipped.json", skipped)


def failed(run: Run, trouble: Shortfall) -> None:
    """Nothing to do."""


def after(run: Run) -> None:
    """Nothing to do."""


def _calibrated(artifact: Artifact, made: Quantization) -> Artifact:
    """Add the hash of the images that determined its ranges."""
    if artifact.precision not in INTEGERS:
        return artifact
    return replace(artifact, calibration_sha256=made.calibration_sha256)


def remark(run: Run) -> str:
    """Which integer files compute what in float; which files are missing, and why."""
    skipped: list[Skipped] = run.read("export", "skipped.json", list[Skipped]) or []
    return "; ".join([*_floats(run.artifacts), *(f"without {one.artifact}: {one.reason}" for one in skipped)])


def _floats(artifacts: Iterable[Artifact]) -> list[str]:
    """A line for each integer file that has float operators."""
    lines = []
    for artifact in artifacts:
        kinds = Counter(name.split()[0] for name in artifact.float_op_names)
        if kinds:
            counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
            lines.append(f"{artifact.id} computes in float: {counts}")
    return lines


def _source(run: Run, precision: str, work: Path) -> tuple[Any, Size]:
    """The torch graph that the files of a precision carry, and the side of its input."""
    from edgekit.export import sources
    from edgekit.graph import exported_program
    from edgekit.lower import portable
    from edgekit.lower.reparameterize import joined

    module, checkpoint = run.load(run.network)
    size = checkpoint.input.shape
    if precision == "int8":
        return exported_program.load(run.done["quantize"].path / "quantized.pt2"), size
    if precision == "int16x8":
        program = sources.int16x8(module, size, _calibration(run, checkpoint.input))
        exported_program.save(program, work / INT16X8)
        return program.module(), size
    if precision == "fp32":
        return portable.module(joined(module, size), size), size
    return sources.rounded(module, size, precision), size


def _calibration(run: Run, spec: InputSpec) -> Iterable[Any]:
    """The images that calibrated int8; without int8, those that would have, or as many as there are."""
    from edgekit.data import index_file, split
    from edgekit.quantize.calibration_images import Images

    index, root = index_file.load_rooted(run.done["data"].path)
    samples: list[Sample] | None = run.read("quantize", "calibration.json", list[Sample])
    if samples is None:
        samples = list(split.calibration(index, None, QuantizeSection().seed))
    return Images(root, samples, spec)
