"""Choose the graph rewrites that make int8 fast on the devices of this run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from edgekit.config.recipe import ExportSection, QuantizeSection
from edgekit.data import index_file
from edgekit.disk import json_file
from edgekit.errors import Shortfall
from edgekit.pipeline.port import Skip
from edgekit.pipeline.provenance import of_formats, versions
from edgekit.pipeline.state import Run
from edgekit.runtime import machine
from edgekit.types import FLOAT_VARIANTS, Rewrite, artifact_id

if TYPE_CHECKING:
    from edgekit.export.port import Exporter

IMAGES = 2
"""Images to calibrate graphs that are only timed, whose accuracy does not matter."""
RESUMABLE = False


class Sections(NamedTuple):
    """What files are made by."""

    quantize: QuantizeSection
    export: ExportSection


def section(run: Run) -> Sections | Skip:
    """The sections that files are made by; skipped if there is nothing to choose, or no device to measure on."""
    quantize, export = run.recipe.quantize, run.recipe.export
    if quantize is None or export is None:
        return Skip(f"the recipe has no [{'quantize' if quantize is None else 'export'}] section")
    why = why_not_timed(run)
    return Skip(why) if why else Sections(quantize, export)


def inputs(run: Run, section: Sections) -> dict[str, Any]:
    """The network, the settings of its int8 files, and what times them."""
    quantize, export = section
    return {
        "network": run.network.digest,
        "keep_float": quantize.may_be_float,
        **({"activations": quantize.activations} if quantize.symmetric else {}),
        "formats": export.trial_formats,
        "where": where(run, "lower"),
        "versions": versions(
            "torch",
            "torchao",
            "onnx",
            "onnxscript",
            "litert-torch",
            "ai-edge-quantizer",
            *of_formats(export.trial_formats),
        ),
    }


def build(run: Run, section: Sections, work: Path) -> None:
    """Write ``rewrites.json``."""
    import torch

    from edgekit.data.split import calibration
    from edgekit.data.transforms import levels
    from edgekit.quantize.calibration_images import Images
    from edgekit.search import rewrites

    quantize, export = section
    module, checkpoint = run.load(run.network)
    index, root = index_file.load_rooted(run.done["data"].path)
    samples = calibration(index, quantize.calibration, quantize.seed)[:IMAGES]
    with TemporaryDirectory(dir=work) as scratch:
        rows = rewrites.choose_graph(
            module,
            checkpoint.input.shape,
            Images(root, samples, checkpoint.input),
            torch.from_numpy(levels(checkpoint.input)),
            quantize,
            export.trial_formats,
            run.job.devices,
            Path(scratch),
            run.console,
        )
    json_file.save(work / "rewrites.json", rows)


def failed(run: Run, trouble: Shortfall) -> None:
    """Nothing to do."""


def after(run: Run) -> None:
    """Nothing to do."""


def remark(run: Run) -> str:
    """Nothing to say."""
    return ""


def why_not_timed(run: Run) -> str:
    """Why this run applies rewrites without timing them; empty if it times them."""
    section = run.recipe.lower
    if section.rewrites is not None:
        return "the recipe pins the rewrites"
    if not section.measure:
        return "not measured: lower.measure is false, so every rewrite is applied"
    return "" if run.job.devices else "not measured: no device was given, so every rewrite is applied"


def where(run: Run, stage: str = "lower") -> dict[str, Any]:
    """What times depend on besides the files; also how often a device was not reached, so that it is tried again."""
    if why_not_timed(run):
        return {}
    before = run.directory.find(stage)
    rows = json_file.load(file, list[Rewrite]) if before and (file := before.path / "rewrites.json").is_file() else []
    facts = machine.facts()
    devices = run.job.devices.items()
    return {
        "devices": [  # in order: the first that is timed decides
            [name, device.arch, device.reach.model_dump(), device.run.file_engines] for name, device in devices
        ],
        "machine": {key: facts[key] for key in ("hostname", "arch", "cpu", "cores")},
        "versions": versions("onnxruntime", "ai-edge-litert", "tflite-runtime", *of_formats(run.trial_formats)),
        "lost": before.inputs.get("where", {}).get("lost", 0) + any(row.lost for row in rows) if before else 0,
    }


def allowed(run: Run) -> list[str] | None:
    """Names of the rewrites that may change the graph: pinned, or not found slower; None allows all."""
    if run.recipe.lower.rewrites is not None:
        return sorted(run.recipe.lower.rewrites)
    rows: list[Rewrite] = run.read("lower", "rewrites.json", list[Rewrite]) or []
    kept = [row.name for row in rows if row.applied or row.device is None]
    return kept if len(kept) < len(rows) else None


def for_file(
    run: Run, exporter: Exporter, form: str, precision: str, work: Path, rows: list[Rewrite]
) -> Callable[[bytes], list[str]]:
    """The `rewrites` function for ``exporter.export``: chooses those of one converted file and adds them to `rows`."""

    def choose(data: bytes) -> list[str]:
        from edgekit.search import rewrites

        artifact = artifact_id(form, precision)
        matching = exporter.lowered(data)[1]
        why, pinned = why_not_timed(run), run.recipe.lower.rewrites
        float32 = {row.name: row for row in rows if row.artifact == artifact_id(form, "fp32")}
        if why:
            decided = [
                Rewrite(name, form, pinned is None or name in pinned, why, artifact=artifact) for name in matching
            ]
        elif precision in FLOAT_VARIANTS and set(matching) <= set(float32):  # the same operators at the same speed
            decided = [
                replace(float32[name], artifact=artifact, reason=f"as for {form}-fp32: {float32[name].reason}")
                for name in matching
            ]
        else:
            with TemporaryDirectory(dir=work) as scratch:
                decided = rewrites.choose_file(
                    exporter, data, form, precision, run.job.devices, Path(scratch), run.console
                )
        rows.extend(decided)
        return [row.name for row in decided if row.applied]

    return choose
