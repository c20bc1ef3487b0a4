"""Every choice of every menu is what its Protocol says: the type checker compares them, here each is named."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from edgekit import choices
from edgekit.config.recipe import (
    DataSection,
    ExportSection,
    ProfileSection,
    PruneSection,
    QuantizeSection,
    Recipe,
    VerifySection,
)
from edgekit.config.train_section import TrainSection
from edgekit.data.port import Source
from edgekit.data.sources import csv_labels, digits, image_folder, torchvision
from edgekit.datacheck.checks import balance, cleaning, duplicates, labels, sizes
from edgekit.datacheck.port import Check
from edgekit.device import file as device_file
from edgekit.export.formats import executorch as executorch_exporter
from edgekit.export.formats import onnx as onnx_exporter
from edgekit.export.formats import tflite as tflite_exporter
from edgekit.export.port import Exporter
from edgekit.inspect.port import Reader
from edgekit.inspect.readers import executorch as executorch_reader
from edgekit.inspect.readers import onnx as onnx_reader
from edgekit.inspect.readers import tflite as tflite_reader
from edgekit.lower.port import GraphRewrite, OnnxRewrite, TfliteRewrite
from edgekit.lower.rewrites import (
    average_pool,
    batch_norm,
    byte_clip,
    constants,
    conv_padding,
    four_channels,
    global_average_pool,
    hard_sigmoid,
    hard_swish,
    same_padding,
    saturation,
    silu,
    sixteen_channels,
    token_rows,
    uint8_activations,
)
from edgekit.pipeline.port import Stage
from edgekit.pipeline.stages import bundle, data, export, lower, profile, prune, quantize, report, train, verify
from edgekit.prune.port import Score
from edgekit.prune.scores import bn_scale, l1, l2, random, taylor
from edgekit.quantize.port import Rule
from edgekit.quantize.ranges import auto, entropy, minmax, mse, percentile
from edgekit.reach.port import Reach, Target
from edgekit.reach.ways import adb, local, qemu, ssh
from edgekit.report.formats import csv, html, json, markdown
from edgekit.report.port import Format
from edgekit.runtime.engines import executorch, litert, onnxruntime, openvino, tensorflow, tflite_runtime, torch_cuda
from edgekit.runtime.port import Engine
from edgekit.train.loggers import mlflow, tensorboard, trackio
from edgekit.train.losses import cross_entropy, focal
from edgekit.train.port import Logger, Loss, Schedule
from edgekit.train.schedules import constant, cosine, one_cycle, plateau, step
from edgekit.tune.objectives import accuracy, latency, size
from edgekit.tune.port import Objective, Pruner, Sampler
from edgekit.tune.pruners import halving, median, none
from edgekit.tune.samplers import grid, tpe
from edgekit.tune.samplers import random as random_sampler
from edgekit.verify.corruptions import blur, brightness, contrast, jpeg, noise
from edgekit.verify.port import Corruption

CHECKS: dict[str, Check] = {
    "balance": balance,
    "cleaning": cleaning,
    "duplicates": duplicates,
    "labels": labels,
    "sizes": sizes,
}
CORRUPTIONS: dict[str, Corruption] = {
    "blur": blur,
    "brightness": brightness,
    "contrast": contrast,
    "jpeg": jpeg,
    "noise": noise,
}
SOURCES: dict[str, Source] = {
    "csv_labels": csv_labels,
    "digits": digits,
    "image_folder": image_folder,
    "torchvision": torchvision,
}
EXPORTERS: dict[str, Exporter] = {"executorch": executorch_exporter, "onnx": onnx_exporter, "tflite": tflite_exporter}
READERS: dict[str, Reader] = {"executorch": executorch_reader, "onnx": onnx_reader, "tflite": tflite_reader}
GRAPH: dict[str, GraphRewrite] = {
    "average_pool": average_pool,
    "batch_norm": batch_norm,
    "constants": constants,
    "hard_sigmoid": hard_sigmoid,
    "hard_swish": hard_swish,
    "saturation": saturation,
    "silu": silu,
    "token_rows": token_rows,
}
ONNX: dict[str, OnnxRewrite] = {
    "byte_clip": byte_clip,
    "conv_padding": conv_padding,
    "four_channels": four_channels,
    "global_average_pool": global_average_pool,
    "sixteen_channels": sixteen_channels,
    "uint8_activations": uint8_activations,
}
TFLITE: dict[str, TfliteRewrite] = {"same_padding": same_padding}
SCORES: dict[str, Score] = {"bn_scale": bn_scale, "l1": l1, "l2": l2, "random": random, "taylor": taylor}
RULES: dict[str, Rule] = {"auto": auto, "entropy": entropy, "minmax": minmax, "mse": mse, "percentile": percentile}
WAYS: dict[str, Reach] = {"adb": adb, "local": local, "qemu": qemu, "ssh": ssh}
FORMATS: dict[str, Format] = {"csv": csv, "html": html, "json": json, "markdown": markdown}
ENGINES: dict[str, Engine] = {
    "executorch": executorch,
    "litert": litert,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "tensorflow": tensorflow,
    "tflite_runtime": tflite_runtime,
    "torch_cuda": torch_cuda,
}
SCHEDULES: dict[str, Schedule] = {
    "constant": constant,
    "cosine": cosine,
    "one_cycle": one_cycle,
    "plateau": plateau,
    "step": step,
}
LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "focal": focal}
LOGGERS: dict[str, Logger] = {"mlflow": mlflow, "tensorboard": tensorboard, "trackio": trackio}
SAMPLERS: dict[str, Sampler] = {"grid": grid, "random": random_sampler, "tpe": tpe}
PRUNERS: dict[str, Pruner] = {"halving": halving, "median": median, "none": none}
OBJECTIVES: dict[str, Objective] = {"accuracy": accuracy, "latency": latency, "size": size}

# What each stage works by differs, so each is compared by itself.
_data: Stage[DataSection] = data
_train: Stage[TrainSection | None] = train
_prune: Stage[PruneSection] = prune
_lower: Stage[lower.Sections] = lower
_quantize: Stage[QuantizeSection] = quantize
_export: Stage[ExportSection] = export
_verify: Stage[VerifySection] = verify
_bundle: Stage[VerifySection] = bundle
_profile: Stage[ProfileSection | None] = profile
_report: Stage[Recipe] = report
STAGES: dict[str, Stage[Any]] = {
    "data": _data,
    "train": _train,
    "prune": _prune,
    "lower": _lower,
    "quantize": _quantize,
    "export": _export,
    "verify": _verify,
    "bundle": _bundle,
    "profile": _profile,
    "report": _report,
}


@pytest.mark.parametrize(
    ("folder", "modules"),
    [
        ("data.sources", SOURCES),
        ("datacheck.checks", CHECKS),
        ("export.formats", EXPORTERS),
        ("inspect.readers", READERS),
        ("lower.rewrites", dict([*GRAPH.items(), *ONNX.items(), *TFLITE.items()])),
        ("pipeline.stages", STAGES),
        ("prune.scores", SCORES),
        ("quantize.ranges", RULES),
        ("reach.ways", WAYS),
        ("report.formats", FORMATS),
        ("runtime.engines", ENGINES),
        ("verify.corruptions", CORRUPTIONS),
        ("train.loggers", LOGGERS),
        ("train.losses", LOSSES),
        ("train.schedules", SCHEDULES),
        ("tune.objectives", OBJECTIVES),
        ("tune.pruners", PRUNERS),
        ("tune.samplers", SAMPLERS),
    ],
)
def test_every_choice_of_a_menu_is_compared_with_its_contract(folder: str, modules: dict[str, Any]) -> None:
    assert sorted(modules) == list(choices.names(f"edgekit.{folder}"))
    assert all(modules[name].__name__ == f"edgekit.{folder}.{name}" for name in modules)


@pytest.mark.parametrize(("scope", "modules"), [("graph", GRAPH), ("onnx", ONNX), ("tflite", TFLITE)])
def test_a_rewrite_says_its_name_and_scope(scope: str, modules: dict[str, Any]) -> None:
    assert {name: (module.NAME, module.SCOPE) for name, module in modules.items()} == {
        name: (name, scope) for name in modules
    }


def test_what_an_engine_calls_a_provider_is_a_text() -> None:
    words: Iterable[tuple[str, str]] = (pair for engine in ENGINES.values() for pair in engine.WORDS.items())
    assert all(word and name for word, name in words)
    assert all("cpu" in engine.WORDS for engine in ENGINES.values())


def test_a_device_is_what_a_way_asks_for() -> None:
    device: Target = device_file.Device(name="host")
    assert (device.name, device.reach.by, device.run.allow_fallback) == ("host", "local", False)
