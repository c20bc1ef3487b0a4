"""What each rewrite of ``edgekit/lower/rewrites`` does to the int8 files of a network, in each engine of this machine.

Random weights, one thread, files with and without a rewrite interleaved. Files that compute in float without it are
also timed, though a run of edgekit does not consider them.

Usage::

    python benchmarks/rewrites.py                              # mobilenetv3_small_100, 224 px
    python benchmarks/rewrites.py tf_mobilenetv2_100 160 2     # network, pixels, seconds per file
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import timm
import torch

from edgekit import choices
from edgekit.config.recipe import QuantizeSection
from edgekit.console import Console
from edgekit.device.file import Device
from edgekit.errors import Shortfall
from edgekit.quantize import ptq
from edgekit.search import rewrites, trial_files

FORMATS = ("onnx", "tflite")
LEVELS = (torch.arange(256) / 255 - 0.5) / 0.5
PLAIN = QuantizeSection(bias_correction=False, sensitivity=False)


def main() -> None:
    name, pixels, seconds = [*sys.argv[1:], *("mobilenetv3_small_100", "224", "2")[len(sys.argv) - 1 :]]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    size = int(pixels)
    module = timm.create_model(name, pretrained=False).eval()
    images = list(LEVELS[torch.randint(0, 256, (2, 3, size, size))])
    result = ptq.quantize(module, size, images, LEVELS, PLAIN)
    graph = result.program.module()
    print(f"{name}, {size} px, int8, one thread; ms without -> with the rewrite, operators in float without -> with")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for form in FORMATS:
            exporter = choices.pick("edgekit.export.formats", form, "format")
            data = exporter.convert(graph, size, "int8", folder)
            finished, matching = exporter.lowered(data)
            bare: dict[str, bytes] = {}
            for rewrite in result.lowered:
                others = [other for other in rewrites.names("graph") if other != rewrite]
                source = ptq.quantize(module, size, images, LEVELS, PLAIN, others).program.module()
                try:
                    bare[rewrite], _ = exporter.lowered(exporter.convert(source, size, "int8", folder))
                except Shortfall as refusal:
                    print(f"  {rewrite:<20} {form:<12} {refusal}")
            for rewrite in matching:
                bare[rewrite], _ = exporter.lowered(data, [other for other in rewrites.names(form) if other != rewrite])
            _compare(form, finished, bare, folder, float(seconds))


def _compare(form: str, finished: bytes, bare: dict[str, bytes], folder: Path, seconds: float) -> None:
    files = {name: folder / f"{name}.{form}" for name in ("all", *bare)}
    for name, data in {"all": finished, **bare}.items():
        files[name].write_bytes(data)
    trials = trial_files.time_files(files, {"host": Device(name="host")}, Console(), seconds).rows
    whole = {trial.engine: trial.ms for trial in trials if trial.file == "all"}
    for trial in trials:
        if trial.file != "all":
            after = whole[trial.engine]
            floats = " -> ".join(str(rewrites.float_ops(form, data)) for data in (bare[trial.file], finished))
            times = f"{trial.ms:.3f} -> {after:.3f} ({trial.ms / after:.2f}x)"
            print(f"  {trial.file:<20} {trial.engine:<12} {times:<26} float {floats}")


if __name__ == "__main__":
    main()
