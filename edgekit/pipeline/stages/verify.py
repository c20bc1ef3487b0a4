"""Compare every exported file with torch on real images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.data import index_file
from edgekit.disk import json_file
from edgekit.disk.atomic import write_text
from edgekit.disk.run_directory import UNVERIFIED
from edgekit.errors import InputError, Shortfall
from edgekit.pipeline.provenance import versions
from edgekit.pipeline.state import Run
from edgekit.types import FLOAT_VARIANTS, TORCH_FP32, TORCH_INT8, Split


def skip(run: Run) -> str:
    """Where there is nothing to verify, or the recipe does not ask for it."""
    if run.recipe.verify is None:
        return "the recipe has no [verify] section"
    return "" if "export" in run.done else "there are no exported files"


def inputs(run: Run) -> dict[str, Any]:
    """The section, the files and the engines."""
    section = run.recipe.verify
    assert section is not None
    return {
        "section": section.model_dump(),
        "export": run.digest("export"),
        "versions": versions("onnxruntime", "ai-edge-litert"),
    }


def build(run: Run, work: Path) -> None:
    """Write ``accuracy.json``."""
    _score(run, work)


def failed(run: Run, trouble: Shortfall) -> None:
    """Mark the files that fell short where they lie."""
    write_text(run.done["export"].path / UNVERIFIED, f"{trouble}\n")


def after(run: Run) -> None:
    """The files hold: take the mark of an earlier failure away."""
    (run.done["export"].path / UNVERIFIED).unlink(missing_ok=True)


def _score(run: Run, work: Path) -> None:
    from edgekit.data.dataset import ImageSet
    from edgekit.graph import exported_program, integer_arithmetic
    from edgekit.verify import files as verify

    section = run.recipe.verify
    assert section is not None
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
        _others(run, module, checkpoint.input.size),
    )
    json_file.save(work / "accuracy.json", rows)
    verify.check(rows)


def _others(run: Run, module: Any, size: int) -> dict[str, Any]:
    """What the files of the other precisions are compared with."""
    from edgekit.export import sources
    from edgekit.graph import exported_program
    from edgekit.pipeline.stages.export import INT16X8
    from edgekit.verify import files as verify

    found: dict[str, Any] = {}
    for precision in dict.fromkeys(artifact.precision for artifact in run.artifacts):
        if precision in FLOAT_VARIANTS:
            graph = sources.reference(module, size, precision)
            found[precision] = verify.Reference(
                f"torch-{precision}", graph, None, *sources.BOUNDS.get(precision, (None, None))
            )
        elif precision == "int16x8":
            graph = exported_program.load(run.done["export"].path / INT16X8)
            found[precision] = verify.Reference(f"torch-{precision}", graph)
    return found
