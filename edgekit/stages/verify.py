"""Compare every exported file with torch on real images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit import _json
from edgekit.data import _index
from edgekit.errors import InputError, Shortfall
from edgekit.provenance import versions
from edgekit.stage import UNVERIFIED, write_text
from edgekit.stages._run import Run
from edgekit.types import Split


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
    from edgekit import models, verify
    from edgekit.data._dataset import ImageSet
    from edgekit.quantize import _graph, _integer

    section = run.recipe.verify
    assert section is not None
    module, checkpoint = models.load(run.network.path)
    index = _index.load(run.done["data"].path)
    split: Split = "test" if index.split("test") else "val"
    if not index.split(split):
        raise InputError("verify: the data has neither a test nor a validation split; set data.test")
    images = ImageSet(index, _index.root_of(index, run.done["data"].path), split, checkpoint.input)
    quantized = None
    if "quantize" in run.done:
        graph = _graph.load(run.done["quantize"].path / "quantized.pt2")
        quantized = verify.Reference("torch-int8", _integer.integer_graph(graph), _graph.output_scale(graph))
    rows = verify.verify(
        images,
        split,
        checkpoint.labels,
        verify.Reference("torch-fp32", module),
        quantized,
        run.artifacts,
        run.done["export"].path,
        section,
        run.console,
        _others(run, module, checkpoint.input.size),
    )
    _json.save(work / "accuracy.json", rows)
    verify.check(rows)


def _others(run: Run, module: Any, size: int) -> dict[str, Any]:
    """What the files of the other precisions are compared with."""
    from edgekit import verify
    from edgekit.export import _sources
    from edgekit.quantize import _graph
    from edgekit.stages.export import INT16X8

    found: dict[str, Any] = {}
    for precision in dict.fromkeys(artifact.precision for artifact in run.artifacts):
        if precision in _sources.FLOAT:
            graph = _sources.reference(module, size, precision)
            found[precision] = verify.Reference(
                f"torch-{precision}", graph, None, *_sources.BOUNDS.get(precision, (None, None))
            )
        elif precision == "int16x8":
            graph = _graph.load(run.done["export"].path / INT16X8)
            found[precision] = verify.Reference(f"torch-{precision}", graph)
    return found
