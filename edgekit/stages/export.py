"""Write the files that devices run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit import _json, choices
from edgekit.provenance import versions
from edgekit.stages._run import Run


def skip(run: Run) -> str:
    """Where the recipe does not ask for it."""
    return "" if run.recipe.export else "the recipe has no [export] section"


def inputs(run: Run) -> dict[str, Any]:
    """The section and the graphs."""
    section = run.recipe.export
    assert section is not None
    return {
        "section": section.model_dump(),
        "network": run.network.digest,
        "quantize": run.digest("quantize"),
        "versions": versions("torch", "onnx", "onnxscript", "litert-torch"),
    }


def build(run: Run, work: Path) -> None:
    """Write a file a precision and format, and ``artifacts.json``."""
    from edgekit import models
    from edgekit.quantize import _graph

    section = run.recipe.export
    assert section is not None
    module, checkpoint = models.load(run.network.path)
    graphs: dict[str, Any] = {"fp32": module}
    if "quantize" in run.done:
        graphs["int8"] = _graph.load(run.done["quantize"].path / "quantized.pt2")
    artifacts = []
    with run.console.bar("export", len(graphs) * len(section.formats)) as advance:
        for precision, graph in graphs.items():
            for name in section.formats:
                exporter = choices.pick("edgekit.export", name, "export.formats")
                artifacts.append(exporter.export(graph, checkpoint.input.size, precision, work))
                advance(1, artifacts[-1].id)
    _json.save(work / "artifacts.json", artifacts)
