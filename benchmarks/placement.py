"""Float operators in the int8 files of many nets, and how far both engines are from the integer graph in torch.

Random weights, 96 px, 8 images; every row should show no float operators and 0 steps. "open" counts the kernels
whose scales could not be settled, where engines may round differently (`edgekit.quantize.exact_scales`).

Usage::

    python benchmarks/placement.py                                   # all nets, about half a minute each
    python benchmarks/placement.py mobilenetv2_100 torchvision/resnet18
    python benchmarks/placement.py --executorch                      # .pte files instead: a minute or more each
    python benchmarks/placement.py --executorch --size 64 mobilenetv2_100

With ``--executorch``, "outside" counts the operators that XNNPACK's delegate does not take, and "same" says whether a
second export gave the same bytes. The exit status is 1 if a net of `BAR` has an operator in float or outside, an output
more than a step away, or fewer than 99.9 % within one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from _nets import LEVELS, images, network
from torch.fx import GraphModule

from edgekit.config.recipe import QuantizeSection
from edgekit.export.formats import onnx as to_onnx
from edgekit.export.formats import tflite as to_tflite
from edgekit.graph import exported_program, integer_arithmetic
from edgekit.quantize import ptq
from edgekit.runtime.engines import litert
from edgekit.runtime.engines import onnxruntime as ort
from edgekit.types import Artifact
from edgekit.verify import files as verify

TIMM = (
    "mobilenetv1_100",
    "mobilenetv2_100",
    "mobilenetv3_small_100",
    "mobilenetv3_large_100",
    "mobilenetv4_conv_small",
    "efficientnet_b0",
    "efficientnet_lite0",
    "mnasnet_100",
    "regnetx_002",
    "regnety_002",
    "resnet18",
    "tf_mobilenetv3_small_100",
    "tf_mobilenetv3_large_100",
    "tf_efficientnet_lite0",
    "tf_efficientnet_b0",
)
TORCHVISION = (
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "mnasnet1_0",
    "regnet_y_400mf",
    "resnet18",
    "shufflenet_v2_x0_5",
)
BAR = (
    "mobilenetv2_100",
    "mobilenetv3_small_100",
    "mobilenetv3_large_100",
    "mobilenetv4_conv_small",
    "efficientnet_lite0",
    "efficientnet_b0",
    "mnasnet_100",
)
SIZE = 96


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executorch", action="store_true")
    parser.add_argument("--size", type=int, default=SIZE)
    parser.add_argument("names", nargs="*")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.executorch:
        sys.exit(executorch(given.names or BAR, given.size))
    names = given.names or [*TIMM, *(f"torchvision/{name}" for name in TORCHVISION)]
    print(f"{'net':<34} {'float ops':>12} {'most steps from torch':>30} {'open':>5} {'s':>5}")
    print(f"{'':<34} {'onnx tflite':>12} {'ORT  ORT plain  LiteRT':>30}")
    for name in names:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            made, steps, opened = measure(name, Path(folder), given.size)
        floats = "{:>5} {:>6}".format(*(artifact.float_ops for artifact in made))
        most = "{:>6} {:>9} {:>9}".format(*(np.abs(each).max() for each in steps))
        print(f"{name:<34} {floats} {most:>30} {opened:>5} {time.perf_counter() - start:>5.0f}", flush=True)
        for artifact in made:
            for operator in artifact.float_op_names:
                print(f"    {artifact.id}: {operator}", flush=True)
        for engine, each in zip(("ORT", "ORT plain", "LiteRT"), steps, strict=True):
            if each.any():
                print(f"    {engine}: {np.mean(each != 0):.2%} of outputs differ", flush=True)


def executorch(names: Sequence[str], size: int) -> int:
    """One row for each net's .pte; returns the exit status."""
    from edgekit.export.formats import executorch as to_executorch
    from edgekit.runtime import pte
    from edgekit.runtime.engines import executorch as engine

    print(
        f"{'net':<34} {'calls':>5} {'outside':>7} {'float':>5} {'most steps':>10} {'within 1':>8} {'same':>5} {'s':>5}"
    )
    short = 0
    for name in names:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            graph, exact, step, batch, _ = quantized(name, size)
            made = to_executorch.export(graph, size, "int8", Path(folder), keep_float=None)
            data = (Path(folder) / made.path).read_bytes()
            same = to_executorch.convert(graph, size, "int8", Path(folder)) == data
        found, session = pte.contents(data, name), engine.load(data)
        got = np.concatenate([session.run(image[None]) for image in batch.numpy()])
        session.close()
        steps = np.abs(np.rint((got - exact) / step))
        within = float((steps <= 1).mean())
        outside = len(found.operators)
        row = (
            f"{name:<34} {len(found.delegates):>5} {outside:>7} {made.float_ops:>5} {steps.max():>10.0f} {within:>8.2%}"
        )
        print(f"{row} {'yes' if same else 'no':>5} {time.perf_counter() - start:>5.0f}", flush=True)
        short += name in BAR and (outside > 0 or made.float_ops > 0 or steps.max() > 1 or within < 0.999)
    return int(short > 0)


def measure(name: str, folder: Path, size: int = SIZE) -> tuple[list[Artifact], list[Any], int]:
    """The two int8 files, each engine's differences in steps, and how many kernels could not be settled."""
    graph, exact, step, batch, open_ends = quantized(name, size)
    made = [each.export(graph, size, "int8", folder) for each in (to_onnx, to_tflite)]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    path = str(folder / made[0].path)
    plain = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    session = ort.load(path)
    results = [
        np.concatenate([verify._infer(made[0], session, image[None]) for image in batch.numpy()]),
        np.concatenate([plain.run(None, {"input": image[None]})[0] for image in batch.numpy()]),
    ]
    lite = litert.load(str(folder / made[1].path))
    results.append(np.concatenate([verify._infer(made[1], lite, image[None]) for image in batch.numpy()]))
    return made, [np.rint((each - exact) / step).astype(int) for each in results], open_ends


def quantized(name: str, size: int) -> tuple[GraphModule, Any, float, torch.Tensor, int]:
    """A net's int8 graph, what it computes in integers, the step of that, for which images; and its open kernels."""
    result = ptq.quantize(network(name, size), size, images(8, size, seed=1), LEVELS, QuantizeSection())
    graph, batch = result.program.module(), images(8, size, seed=2)
    with torch.no_grad():
        integer = integer_arithmetic.integer_graph(graph)
        exact = np.concatenate([integer(image.unsqueeze(0)).numpy() for image in batch])
    step = exported_program.output_scale(graph)
    assert step is not None
    return graph, exact, step, batch, result.open_ends


if __name__ == "__main__":
    main()
