"""A net on every non-CPU provider of every engine on this machine, beside PyTorch on the same GPU.

For each: whether the requested provider ran, how many operators ran elsewhere, how far its outputs are from the CPU's
(as a share of the largest), and its p50, with all models interleaved; copies in and out separately if the engine
reports them. ``vs torch`` is p50 of PyTorch (CUDA graph, channels last, float32) over this one's. Half precision is
shown beside it for comparison.

NOT RUN ON A GPU SO FAR: its code was run with SwiftShader, a Vulkan device in software, and PyTorch's part on a CPU,
both of which say nothing about speed. ``--require-gpu`` makes it fail unless an NVIDIA GPU computed and everything
that ran agreed with the CPU.

TensorRT also runs the int8 file with symmetric activations (``quantize.activations = "symmetric"``), which is the only
int8 that it takes; its outputs are compared with torch's integer graph, in steps of the output. CoreML takes no Q/DQ
files: ``coremltools.convert`` on a Mac makes its own of the quantized program (``quantized.pt2``) of a symmetric run.

Usage::

    pip install onnxruntime-gpu                                      # in place of onnxruntime
    python benchmarks/gpu.py --require-gpu
    python benchmarks/gpu.py --net mobilenetv3_small_100 --size 160
    python benchmarks/gpu.py --onnxruntime ~/webgpu/bin/python       # a Python with another build of it
    python benchmarks/gpu.py --cpu                                   # everything on the CPU, to check that it works
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.reach.worker import Worker, WorkerFault
from edgekit.report.placement import elsewhere

ROOT = Path(__file__).parents[1]
CUDA = ("CUDAExecutionProvider", "TensorrtExecutionProvider", "cuda", "cuda-fp16")
"""Providers that an NVIDIA GPU computes for."""
CANDIDATES: tuple[tuple[str, ...], ...] = (
    ("torch_cuda", "cuda"),
    ("torch_cuda", "cuda-fp16"),
    ("onnxruntime", "cuda"),
    ("onnxruntime", "tensorrt"),
    ("onnxruntime", "tensorrt", "int8"),
    ("onnxruntime", "webgpu"),
    ("litert", "gpu"),
    ("litert", "gpu-fp16"),
)
ON_CPU: tuple[tuple[str, ...], ...] = (
    ("torch_cuda", "cpu"),
    ("onnxruntime", "cpu"),
    ("onnxruntime", "cpu", "int8"),
    ("litert", "cpu"),
)
SUFFIX = {"torch_cuda": "pt2", "onnxruntime": "onnx", "litert": "tflite"}
TOLERANCE, HALF_TOLERANCE = 1e-3, 0.05
"""Share of the largest output."""
STEPS = 8
"""int8: most steps from torch's integers. TensorRT's kernels round on their way; ONNX Runtime's CPU is held to 1."""
WAIT = 600.0
"""Seconds: TensorRT takes minutes to build an engine."""
OUTPUTS = """
import sys
import numpy as np
from edgekit.runtime import engine_menu

engine, path, provider, x, y = sys.argv[1:]
session = engine_menu.engine(engine).load(path, 1, provider)
np.save(y, np.concatenate([session.run(image[None]) for image in np.load(x)]))
"""


@dataclass
class Row:
    """One engine on one provider."""

    engine: str
    provider: str
    worker: Worker
    precision: str = "fp32"
    ready: dict[str, Any] = field(default_factory=dict)
    error: float = float("nan")
    """Largest difference of the outputs."""
    largest: float = 1.0
    """Largest output."""
    ms: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="mobilenetv2_100")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=0.2, help="seconds of each round")
    parser.add_argument("--keep", type=Path, help="folder for the files; existing ones are reused")
    parser.add_argument("--onnxruntime", type=Path, default=Path(sys.executable), metavar="PYTHON")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--require-gpu", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        wanted, images = make(arguments.net, arguments.size, folder)
        rows = []
        for engine, provider, *precision in ON_CPU if arguments.cpu else CANDIDATES:
            python = arguments.onnxruntime if engine == "onnxruntime" else Path(sys.executable)
            worker = stack.enter_context(Worker(_start(python, "-m", "edgekit.runtime.bench")))
            row = Row(engine, provider, worker, precision[0] if precision else "fp32")
            try:
                _open(row, folder, python, wanted[row.precision], images)
            except WorkerFault as fault:
                print(f"{engine:<12} {provider:<10} {row.precision:<5} {fault}", flush=True)
            else:
                rows.append(row)
        for _ in range(arguments.rounds):
            for row in rows:
                request = {"warmup": 10, "seconds": arguments.seconds, "min_samples": 5}
                row.ms.append(statistics.median(row.worker.ask({"run": request}, WAIT)["ms"]))
        reference = next((row.ms for row in rows if row.engine == "torch_cuda"), None)
        fine = [_show(row, reference, wanted["step"]) for row in rows]
    if not all(fine):
        sys.exit("gpu: outputs differ")
    if arguments.require_gpu and not any(row.ready["provider"] in CUDA for row in rows):
        sys.exit("gpu: no NVIDIA GPU computed anything")


def _start(python: Path, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen([python, *words], stdin=pipe, stdout=pipe, stderr=pipe, env=environment, text=True)


def _open(row: Row, folder: Path, python: Path, wanted: Any, images: Any) -> None:
    """Load the model in the process that times it, and compute its outputs in another process."""
    model = folder / f"{row.precision}.{SUFFIX[row.engine]}"
    request = {"model": str(model), "engine": row.engine, "threads": 1, "provider": row.provider, "seed": 0}
    row.ready = row.worker.ask(request, WAIT)
    source, sink = folder / "x.npy", folder / "y.npy"
    np.save(source, np.ascontiguousarray(images.transpose(0, 2, 3, 1)) if row.engine == "litert" else images)
    words = [row.engine, str(model), row.provider, str(source), str(sink)]
    process = _start(python, "-c", OUTPUTS, *words)
    said = process.communicate()[1]
    if process.returncode:
        raise WorkerFault((said.strip().splitlines() or ["it died"])[-1])
    row.error = float(np.abs(np.load(sink) - wanted).max())
    row.largest = float(np.abs(wanted).max())


def _show(row: Row, reference: list[float] | None, step: float) -> bool:
    """Print the row; returns whether its outputs are right."""
    steps = row.worker.ask({"steps": 50}, WAIT)["steps"]
    ratio = statistics.median(a / b for a, b in zip(reference, row.ms, strict=True)) if reference else float("nan")
    share, steps_off = row.error / row.largest, round(row.error / step)
    fine = share <= (HALF_TOLERANCE if "fp16" in row.provider else TOLERANCE)
    if row.precision == "int8":
        fine = steps_off <= (1 if row.provider == "cpu" else STEPS)
    off = f"off {f'{steps_off} steps' if row.precision == 'int8' else f'{share:.1e}'}{'' if fine else ' !'}"
    print(
        f"{row.engine:<12} {row.provider:<10} {row.precision:<5} ran {row.ready['provider']:<26} {off:<14}"
        f"  p50 {statistics.median(row.ms):8.3f} ms  vs torch {ratio:5.2f}x",
        flush=True,
    )
    if steps:
        print("    in {:.3f}, compute {:.3f}, out {:.3f} ms".format(*map(statistics.median, zip(*steps, strict=True))))
    if left := elsewhere(row.ready["provider"], row.ready["placement"]):
        print(f"    {left}")
    if row.ready["placement"]:
        print(f"    {json.dumps(row.ready['placement'].get(row.ready['provider'], {}))}")
    return fine


def make(name: str, size: int, folder: Path) -> tuple[dict[str, Any], Any]:
    """Write the net in three formats, and in int8 with symmetric activations for TensorRT, except existing files.

    Returns:
        Its outputs for some images by precision, with the "step" of int8; and the images.
    """
    import torch
    from _nets import LEVELS, images, network

    from edgekit.config.recipe import QuantizeSection
    from edgekit.export.formats import onnx as to_onnx
    from edgekit.export.formats import tflite as to_tflite
    from edgekit.graph import exported_program, integer_arithmetic
    from edgekit.profile import torch_reference
    from edgekit.quantize import ptq

    module, batch = network(name, size), images(4, size, seed=1)
    for exporter in (to_onnx, to_tflite):
        path = folder / f"fp32.{exporter.__name__.rpartition('.')[2]}"
        if not path.exists():
            (folder / exporter.export(module, size, "fp32", folder).path).rename(path)
    if not (folder / "fp32.pt2").exists():
        torch_reference.write(module, size, folder / "fp32.pt2")
    saved = folder / "symmetric.pt2"
    if not saved.exists():
        section = QuantizeSection(activations="symmetric")
        exported_program.save(ptq.quantize(module, size, images(8, size, seed=2), LEVELS, section).program, saved)
    graph = exported_program.load(saved)
    if not (folder / "int8.onnx").exists():
        (folder / to_onnx.export(graph, size, "int8", folder).path).rename(folder / "int8.onnx")
    integers = integer_arithmetic.integer_graph(graph)
    with torch.no_grad():
        int8 = torch.cat([integers(image.unsqueeze(0)) for image in batch]).numpy()
        wanted = {"fp32": module(batch).numpy(), "int8": int8, "step": exported_program.output_scale(graph)}
        return wanted, batch.numpy()


if __name__ == "__main__":
    main()
