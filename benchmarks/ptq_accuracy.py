"""int8 accuracy of a real MobileNetV2 without training: agreement with fp32 of our files and of the usual tools'.

Uses the shared weights and `imagenet500`: every fifth image calibrates, the others are scored. Agreement is the
share of images whose top-1 class is that of the fp32 net; SQNR compares the logits with its. Each range rule and each
correction is scored on the integer graph in torch, which engines reproduce; the recipe's choice is exported and run by
both engines, beside ONNX Runtime's `quantize_static` (per channel, uint8 activations, int8 weights, after
`quant_pre_process`) and ai-edge-quantizer (`static_wi8_ai8`) on our fp32 files with the same images. Seconds are those
of calibration and corrections, or of the peer's whole quantization.

Usage::

    python benchmarks/ptq_accuracy.py                 # all rows
    python benchmarks/ptq_accuracy.py --every 10      # rows in torch on every tenth scored image
    python benchmarks/ptq_accuracy.py --quick         # a quick look: 20 images calibrate, 40 are scored
    python benchmarks/ptq_accuracy.py --files         # only what engines run
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgekit import choices, models
from edgekit.config.recipe import ModelSection, QuantizeSection
from edgekit.data.transforms import evaluate, levels, open_image
from edgekit.graph import integer_arithmetic
from edgekit.quantize import ptq
from edgekit.runtime import engine_menu, port
from edgekit.types import HOST_ENGINES, Artifact, InputSpec

SHARED = Path(os.environ.get("EDGEKIT_TEST_DATA", Path(__file__).parents[2] / "shared"))
SIZE = 224
RULES = ("minmax", "percentile", "mse", "entropy", "auto")
CORRECTIONS: tuple[dict[str, Any], ...] = (
    {"bias_correction": False},
    {"equalize": True},
    {"rounding": "adaptive"},
    {"rounding": "adaptive", "equalize": True},
)
"""Changes to ``range = "mse"``, which alone is what is exported."""
Array = npt.NDArray[Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--files", action="store_true")
    parser.add_argument("--every", type=int, default=1)
    arguments = parser.parse_args()
    module, spec = _network()
    paths = sorted((SHARED / "data/imagenet500").glob("*.jpg"))
    calibrating = [_pixels(path, spec) for path in paths[::5]][:: 5 if arguments.quick else 1]
    scored = [_pixels(path, spec) for number, path in enumerate(paths) if number % 5]
    scored = scored[:: 10 if arguments.quick else 1]
    with torch.no_grad():
        exact = torch.cat([module(image.unsqueeze(0)) for image in scored])
    field = _Field(module, torch.from_numpy(levels(spec)), calibrating, scored, exact)
    print(f"{len(calibrating)} images calibrate, {len(scored)} are scored")
    best = QuantizeSection(range="mse")
    if not arguments.files:
        sections = [QuantizeSection(range=rule) for rule in RULES]
        sections += [QuantizeSection(range="mse", **choice) for choice in CORRECTIONS]
        for section in sections:
            field.score_in_torch(section, arguments.every)
    with tempfile.TemporaryDirectory() as folder:
        field.score_files(best, Path(folder))


def _network() -> tuple[nn.Module, InputSpec]:
    section = ModelSection(
        name="mobilenetv2_100",
        weights=str(SHARED / "weights/mobilenetv2_100_imagenet1001.safetensors"),
        options={"pad_type": "same"},
        mean=[0.5, 0.5, 0.5],
        std=[0.5, 0.5, 0.5],
        crop=0.875,
        interpolation="bilinear",
    )
    module, _, spec = models.create(section, 1001, SIZE, Path())
    return module, spec


def _pixels(path: Path, spec: InputSpec) -> Tensor:
    return torch.from_numpy(evaluate(open_image(path, spec), spec))


@dataclass
class _Field:
    module: nn.Module
    pixels: Tensor
    calibrating: list[Tensor]
    scored: list[Tensor]
    exact: Tensor

    def __post_init__(self) -> None:
        self.observed: dict[tuple[bool, str], tuple[ptq.Observed, float]] = {}

    def decide(self, section: QuantizeSection) -> tuple[ptq.Result, float]:
        """Quantize; rows share calibration, whose time counts in each."""
        key = section.equalize, section.rounding
        if key not in self.observed:
            start = time.perf_counter()
            found = ptq.observe(self.module, SIZE, self.calibrating, self.pixels, section)
            self.observed[key] = found, time.perf_counter() - start
        observed, spent = self.observed[key]
        start = time.perf_counter()
        return ptq.decide(observed, section), spent + time.perf_counter() - start

    def score_in_torch(self, section: QuantizeSection, every: int) -> None:
        result, seconds = self.decide(section)
        integer = integer_arithmetic.integer_graph(result.program.module())
        with torch.no_grad():
            got = torch.cat([integer(image.unsqueeze(0)) for image in self.scored[::every]])
        given = section.model_dump(exclude_unset=True)
        name = ", ".join(f"{key}={value}" for key, value in given.items())
        self.say(f"torch int8: {name}", got, self.exact[::every], seconds)

    def score_files(self, section: QuantizeSection, folder: Path) -> None:
        result, seconds = self.decide(section)
        for form in HOST_ENGINES:
            exporter = choices.pick("edgekit.export.formats", form, "export.formats")
            plain = exporter.export(self.module, SIZE, "fp32", folder)
            made = exporter.export(result.program.module(), SIZE, "int8", folder)
            self.say(f"{form} fp32", self.run(folder, plain, plain.path), self.exact, 0.0)
            self.say(f"{form} int8, ours", self.run(folder, made, made.path), self.exact, seconds)
            peers: Sequence[tuple[str, Callable[[Path, str], None]]] = (
                [("ORT MinMax", self.ort), ("ORT Percentile", self.ort)]
                if form == "onnx"
                else [("ai-edge-quantizer static_wi8_ai8", self.ai_edge)]
            )
            for name, peer in peers:
                start = time.perf_counter()
                peer(folder, name.rpartition(" ")[2])
                spent = time.perf_counter() - start
                self.say(f"{form} int8, {name}", self.run(folder, plain, f"peer.{form}"), self.exact, spent)

    def run(self, folder: Path, like: Artifact, file: str) -> Tensor:
        """Logits of a file whose input has the layout of `like`."""
        session = engine_menu.engine(HOST_ENGINES[like.format]).load(str(folder / file))
        rows = []
        for image in self.scored:
            values = image.unsqueeze(0).numpy()
            fed = np.ascontiguousarray(values.transpose(0, 2, 3, 1)) if like.input.layout == "NHWC" else values
            got = session.run(port.quantize(fed, session.input))
            rows.append(torch.from_numpy(port.dequantize(got, session.output)))
        session.close()
        return torch.cat(rows)

    def ort(self, folder: Path, method: str) -> None:
        from onnxruntime.quantization import (
            CalibrationDataReader,
            CalibrationMethod,
            QuantFormat,
            QuantType,
            quantize_static,
        )
        from onnxruntime.quantization.shape_inference import quant_pre_process

        batch = [image.unsqueeze(0).numpy() for image in self.calibrating]

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                self.left = iter(batch)

            def get_next(self) -> dict[str, Array] | None:
                image = next(self.left, None)
                return None if image is None else {"input": image}

        quant_pre_process(str(folder / "model-fp32.onnx"), str(folder / "prepared.onnx"))
        quantize_static(
            str(folder / "prepared.onnx"),
            str(folder / "peer.onnx"),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[method],
        )

    def ai_edge(self, folder: Path, _: str) -> None:
        from ai_edge_litert import interpreter
        from ai_edge_quantizer import quantizer, recipe

        source = str(folder / "model-fp32.tflite")
        ((name, ports),) = interpreter.Interpreter(source).get_signature_list().items()
        batch = [np.ascontiguousarray(image.permute(1, 2, 0).unsqueeze(0).numpy()) for image in self.calibrating]
        tool = quantizer.Quantizer(source, recipe.static_wi8_ai8())
        calibrated = tool.calibrate({name: [{ports["inputs"][0]: image} for image in batch]}, num_threads=1)
        tool.quantize(calibrated).export_model(str(folder / "peer.tflite"), overwrite=True)

    def say(self, name: str, got: Tensor, exact: Tensor, seconds: float) -> None:
        agreement = float((got.argmax(1) == exact.argmax(1)).float().mean())
        noise = (got - exact).double().square().sum() / exact.double().square().sum()
        print(
            f"{name:<72} agrees {agreement:7.2%}   SQNR {-10 * float(noise.log10()):6.2f} dB   {seconds:5.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
