"""Compare every exported file with torch on real images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.config.recipe import VerifySection
from edgekit.data import index_file
from edgekit.disk import json_file
from edgekit.disk.atomic import write_text
from edgekit.disk.run_directory import UNVERIFIED
from edgekit.errors import InputError, Shortfall
from edgekit.pipeline.port import Skip
from edgekit.pipeline.provenance import of_formats, versions
from edgekit.pipeline.state import Run
from edgekit.runtime import engine_menu
from edgekit.types import FLOAT_VARIANTS, TORCH_FP32, TORCH_INT8, Size, Split

RESUMABLE = False


def section(run: Run) -> VerifySection | Skip:
    """Its own; skipped where there is none, or nothing to verify."""
    if run.recipe.verify is None:
        return Skip("the recipe has no [verify] section")
    return run.recipe.verify if "export" in run.done else Skip("there are no exported files")


def inputs(run: Run, section: VerifySection) -> dict[str, Any]:
    """The section, the files, what they are compared with, the images and the engines."""
    return {
        "section": section.model_dump(),
        "data": run.digest("data"),
        "network": run.network.digest,
        "quantize": run.digest("quantize"),
        "export": run.digest("export"),
        "versions": versions(
            "onnxruntime", "ai-edge-litert", "torch", "torchao", "numpy", "pillow", *of_formats(run.formats)
        ),
        **({"inexact": versions(*(engine_menu.engine(name).PACKAGE for name in run.inexact))} if run.inexact else {}),
    }


def build(run: Run, section: VerifySection, work: Path) -> None:
    """Write ``accuracy.json`` and, with ``verify.corruptions``, ``robustness.json``."""
    _score(run, section, work)


def remark(run: Run) -> str:
    """In which engines of the devices nothing could be verified, as they are not installed here."""
    names = dict.fromkeys(engine for device in run.job.devices.values() for engine in device.run.engines)
    absent = [name for name in names if engine_menu.bound(name) and name not in run.inexact]
    return "; ".join(
        f"not verified in {name}, which is not installed here: pip install {engine_menu.engine(name).PACKAGE}"
        for name in absent
    )


def failed(run: Run, trouble: Shortfall) -> None:
    """Mark the exported files as unverified, in their folder."""
    write_text(run.done["export"].path / UNVERIFIED, f"{trouble}\n")


def after(run: Run) -> None:
    """The files passed: remove the mark of an earlier failure."""
    (run.done["export"].path / UNVERIFIED).unlink(missing_ok=True)


def _score(run: Run, section: VerifySection, work: Path) -> None:
    from edgekit.data.dataset import ImageSet
    from edgekit.graph import exported_program, integer_arithmetic
    from edgekit.verify import files as verify

    module, checkpoint = run.load(run.network)
    index, root = index_file.load_rooted(run.done["data"].path)
    split: Split = "test" if index.split("test") else "val"
    if not index.split(split):
        raise InputError("verify: the data has neither a test nor a validation split; set data.test")
    images = ImageSet(index, root, split, checkpoint.input)
    quantized = None
    if "quantize" in run.done:
        graph = exported_program.load(run.done["quantize"].path / "quantized.pt2")
        quantized = verify.Reference(
            TORCH_INT8, integer_arithmetic.integer_graph(graph), exported_program.output_scale(graph)
        )
    rows = verify.verify(
        images,
        split,
        checkpoint.labels,
        verify.Reference(TORCH_FP32, module),
        quantized,
        run.artifacts,
        run.done["export"].path,
        section,
        run.console,
        _others(run, module, checkpoint.input.shape),
        run.inexact,
    )
    json_file.save(work / "accuracy.json", rows)
    verify.check(rows)
    if section.corruptions:
        from edgekit.verify import robustness

        scores = robustness.score(
            images.samples[: section.images or None],
            root,
            split,
            checkpoint.input,
            module,
            run.artifacts,
            run.done["export"].path,
            section.corruptions,
            run.recipe.data.seed,
            run.console,
        )
        json_file.save(work / "robustness.json", scores)


def _others(run: Run, module: Any, size: Size) -> dict[str, Any]:
    """References for the files of the other precisions."""
    from edgekit.export import sources
    from edgekit.graph import exported_program
    from edgekit.pipeline.stages.export import INT16X8
    from edgekit.verify import files as verify

    references: dict[str, Any] = {}
    for precision in dict.fromkeys(artifact.precision for artifact in run.artifacts):
        if precision in FLOAT_VARIANTS:
            graph = sources.reference(module, size, precision)
            references[precision] = verify.Reference(
                f"torch-{precision}", graph, None, *sources.BOUNDS.get(precision, (None, None))
            )
        elif precision == "int16x8":
            graph = exported_program.load(run.done["export"].path / INT16X8)
            references[precision] = verify.Reference(f"torch-{precision}", graph)
    return references
