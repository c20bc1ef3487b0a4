"""Decide the int8 graph that every format carries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit import _json
from edgekit.data import _index
from edgekit.provenance import versions
from edgekit.stages._run import Run


def skip(run: Run) -> str:
    """Where the recipe does not ask for it."""
    return "" if run.recipe.quantize else "the recipe has no [quantize] section"


def inputs(run: Run) -> dict[str, Any]:
    """The section, the float network and the images."""
    section = run.recipe.quantize
    assert section is not None
    return {
        "section": section.model_dump(exclude={"max_drop"}),
        "network": run.network.digest,
        "data": run.digest("data"),
        "versions": versions("torch", "torchao"),
    }


def build(run: Run, work: Path) -> None:
    """Write ``quantized.pt2``, ``plan.json`` and ``calibration.json``."""
    import torch

    from edgekit import models
    from edgekit.data._split import calibration
    from edgekit.data._transforms import evaluate, levels, open_rgb
    from edgekit.quantize import _graph, _ptq

    section = run.recipe.quantize
    assert section is not None
    module, checkpoint = models.load(run.network.path)
    index = _index.load(run.done["data"].path)
    root = _index.root_of(index, run.done["data"].path)
    samples = calibration(index, section.calibration, section.seed)
    _json.save(work / "calibration.json", samples)
    with run.console.bar("calibrate", len(samples)) as advance:

        def images() -> Any:
            for sample in samples:
                yield torch.from_numpy(evaluate(open_rgb(root / sample.path), checkpoint.input))
                advance()

        pixels = torch.from_numpy(levels(checkpoint.input))
        program, lowered = _ptq.quantize(module, checkpoint.input.size, images(), pixels, section)
    _graph.save(program, work / "quantized.pt2")
    _json.save(work / "plan.json", _graph.Plan(lowered, _graph.plan(_graph.load(work / "quantized.pt2"))))
