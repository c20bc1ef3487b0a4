"""Every precision of one net: size, latency as a ratio to fp32 on each engine, and agreement.

Files are interleaved, one inference each, one thread, so that load on the machine affects them all; ratios are of
minima, which noise disturbs least.

Usage::

    python benchmarks/precisions.py                       # MobileNetV2, random weights, 224 pixels
    python benchmarks/precisions.py efficientnet_b0 160   # another timm net and size
    python benchmarks/precisions.py runs/trashnet         # the files of a run
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _nets import LEVELS, images, network

from edgekit import choices
from edgekit.disk import json_file
from edgekit.errors import Shortfall
from edgekit.runtime import engine_menu, port
from edgekit.scores import Accuracy
from edgekit.types import HOST_ENGINES, Artifact

PRECISIONS = ("fp32", "fp16", "int8", "weight_only", "dynamic", "int16x8")
SECONDS = 60.0
MOST = 200
"""Most rounds."""


def main() -> None:
    """Print one line per file."""
    first = sys.argv[1] if len(sys.argv) > 1 else "mobilenetv2_100"
    if Path(first).is_dir():
        folder = Path(first) / "6-export"
        rows: list[Accuracy] = json_file.load(Path(first) / "7-verify" / "accuracy.json", list[Accuracy])
        agreement = {row.artifact: f"{row.agreement:.2%} / {row.agreement_reference or 1:.2%}" for row in rows}
        _report(json_file.load(folder / "artifacts.json", list[Artifact]), folder, agreement)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            _report(_made(first, int(sys.argv[2]) if len(sys.argv) > 2 else 224, Path(scratch)), Path(scratch), {})


def _made(name: str, size: int, folder: Path) -> list[Artifact]:
    from edgekit.config.recipe import QuantizeSection
    from edgekit.export import sources
    from edgekit.quantize import ptq

    module, pictures = network(name, size), images(4, size)
    section = QuantizeSection(calibration=4, bias_correction=False)
    found = []
    for precision in PRECISIONS:
        if precision == "int8":
            graph: Any = ptq.quantize(module, size, list(pictures), LEVELS, section).program.module()
        elif precision == "int16x8":
            graph = sources.int16x8(module, size, pictures).module()
        else:
            graph = module if precision == "fp32" else sources.rounded(module, size, precision)
        for format_ in ("onnx", "tflite"):
            try:
                exporter = choices.pick("edgekit.export.formats", format_, "formats")
                found.append(exporter.export(graph, size, precision, folder))
            except Shortfall as trouble:
                print(trouble)
    return found


def _report(artifacts: list[Artifact], folder: Path, agreement: dict[str, str]) -> None:
    sessions, feeds = {}, {}
    for artifact in artifacts:
        session = engine_menu.engine(HOST_ENGINES[artifact.format]).load(str(folder / artifact.path), threads=1)
        values = np.random.default_rng(0).uniform(-1, 1, artifact.input.shape).astype(np.float32)
        sessions[artifact.id], feeds[artifact.id] = session, port.quantize(values, session.input)
    times: dict[str, list[float]] = {id_: [] for id_ in sessions}
    start = time.perf_counter()
    while len(times[artifacts[0].id]) < MOST and time.perf_counter() - start < SECONDS:
        for id_, session in sessions.items():
            before = time.perf_counter()
            session.run(feeds[id_])
            times[id_].append(time.perf_counter() - before)
    print(f"{len(times[artifacts[0].id])} rounds, one thread; agreement with float / with its own torch model")
    for artifact in artifacts:
        yardstick = times.get(f"{artifact.format}-fp32")
        ratio = f"{min(yardstick) / min(times[artifact.id]):.2f}x fp32" if yardstick else ""
        engine = HOST_ENGINES[artifact.format]
        print(
            f"  {artifact.id:<19} {engine:<11} {artifact.bytes / 1e6:6.2f} MB  "
            f"{1e3 * min(times[artifact.id]):8.2f} ms  {ratio:<12} {agreement.get(artifact.id, '')}"
        )


if __name__ == "__main__":
    main()
