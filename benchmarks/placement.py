"""Float operators in the int8 files of many nets, and how far both engines are from the integer graph in torch.

Random weights, 96 px, 8 images; every row should show no float operators and 0 steps. "open" counts the kernels
whose scales could not be settled, where engines may round differently (`edgekit.quantize.exact_scales`).

Usage::

    python benchmarks/placement.py                                   # all nets, about half a minute each
    python benchmarks/placement.py mobilenetv2_100 torchvision/resnet18
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from _nets import LEVELS, images, network

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
SIZE = 96


def main() -> None:
    torch.set_num_threads(1)
    names = sys.argv[1:] or [*TIMM, *(f"torchvision/{name}" for name in TORCHVISION)]
    print(f"{'net':<34} {'float ops':>12} {'most steps from torch':>30} {'open':>5} {'s':>5}")
    print(f"{'':<34} {'onnx tflite':>12} {'ORT  ORT plain  LiteRT':>30}")
    for name in names:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            made, steps, opened = measure(name, Path(folder))
        floats = "{:>5} {:>6}".format(*(artifact.float_ops for artifact in made))
        most = "{:>6} {:>9} {:>9}".format(*(np.abs(each).max() for each in steps))
        print(f"{name:<34} {floats} {most:>30} {opened:>5} {time.perf_counter() - start:>5.0f}", flush=True)
        for artifact in made:
            for operator in artifact.float_op_names:
                print(f"    {artifact.id}: {operator}", flush=True)
        for engine, each in zip(("ORT", "ORT plain", "LiteRT"), steps, strict=True):
            if each.any():
                print(f"    {engine}: {np.mean(each != 0):.2%} of outputs differ", flush=True)


def measure(name: str, folder: Path) -> tuple[list[Artifact], list[Any], int]:
    """The two int8 files, each engine's differences in steps, and how many kernels could not be settled."""
    module = network(name, SIZE)
    result = ptq.quantize(module, SIZE, images(8, SIZE, seed=1), LEVELS, QuantizeSection())
    graph = result.program.module()
    made = [each.export(graph, SIZE, "int8", folder) for each in (to_onnx, to_tflite)]
    batch = images(8, SIZE, seed=2)
    with torch.no_grad():
        integer = integer_arithmetic.integer_graph(graph)
        exact = np.concatenate([integer(image.unsqueeze(0)).numpy() for image in batch])
    step = exported_program.output_scale(graph)
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
    return made, [np.rint((each - exact) / step).astype(int) for each in results], result.open_ends


if __name__ == "__main__":
    main()
