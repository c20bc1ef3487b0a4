"""int8 against fp32 of the same net on both engines, one thread, 224 px, beside int8 files of the usual tools.

The peers are ONNX Runtime's `quantize_static` (per channel, uint8 activations, int8 weights, after
`quant_pre_process`) and ai-edge-quantizer (`static_wi8_ai8`), each on our fp32 file. Weights and calibration images
are random: speed does not depend on them, accuracy is not measured here. All files of an engine are timed in one
process, in short interleaved rounds; a ratio is the median over the rounds of fp32 over int8 within a round, so
that a busy machine slows both.

Usage::

    python benchmarks/int8_speed.py                                    # the nets of the table, minutes each
    python benchmarks/int8_speed.py mobilenetv2_100 --keep speed       # keep the files, so that timing again is quick
    python benchmarks/int8_speed.py mobilenetv2_100 --profile          # also: milliseconds by operator of our file
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

NETS = (
    "mobilenetv2_100",
    "mobilenetv3_small_100",
    "mobilenetv3_large_100",
    "efficientnet_b0",
    "efficientnet_lite0",
    "mobilenetv4_conv_small",
)
SIZE = 224
WARMUP, RUNS, ROUNDS = 5, 10, 40
Array = npt.NDArray[Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", default=NETS)
    parser.add_argument("--keep", type=Path, help="folder for the files; existing ones are reused")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--profile", action="store_true", help="time the operators of our int8 file")
    parser.add_argument("--time", nargs=2, help=argparse.SUPPRESS)  # for the processes started below
    arguments = parser.parse_args()
    if arguments.time:
        engine, folder = arguments.time
        _time(engine, Path(folder), arguments.rounds, arguments.profile)
        return
    with tempfile.TemporaryDirectory() as temporary:
        for name in arguments.nets:
            folder = (arguments.keep or Path(temporary)) / name
            folder.mkdir(parents=True, exist_ok=True)
            make(name, folder)
            for engine in ("onnxruntime", "litert"):
                command = [sys.executable, __file__, "--time", engine, str(folder), "--rounds", str(arguments.rounds)]
                subprocess.run([*command, *(["--profile"] if arguments.profile else [])], check=True)


# --- timing


def _time(engine: str, folder: Path, rounds: int, profile: bool) -> None:
    suffix, run = {"onnxruntime": ("onnx", _ort), "litert": ("tflite", _litert)}[engine]
    calls = {kind: run(folder / f"{kind}.{suffix}") for kind in ("fp32", "int8", "peer")}
    for call in calls.values():
        _repeat(call, WARMUP)
    taken: dict[str, list[float]] = {kind: [] for kind in calls}
    for _ in range(rounds):
        for kind, call in calls.items():
            taken[kind].append(statistics.median(_repeat(call, RUNS)))
    p50 = {kind: statistics.median(values) for kind, values in taken.items()}
    ratio = {kind: statistics.median(a / b for a, b in zip(taken["fp32"], taken[kind], strict=True)) for kind in taken}
    print(
        f"{folder.name:<24} {engine:<12} fp32 {p50['fp32']:6.2f} ms   ours {p50['int8']:6.2f} ms {ratio['int8']:5.2f}x"
        f"   peer {p50['peer']:6.2f} ms {ratio['peer']:5.2f}x",
        flush=True,
    )
    if profile:
        _profile(folder / f"int8.{suffix}", engine)


def _repeat(call: Callable[[], object], count: int) -> list[float]:
    """Milliseconds of each call."""
    taken = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        taken.append((time.perf_counter() - start) * 1000)
    return taken


def _ort(path: Path) -> Callable[[], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0]
    feed = {source.name: np.random.default_rng(0).normal(size=source.shape).astype(np.float32)}
    return lambda: session.run(None, feed)


def _litert(path: Path) -> Callable[[], object]:
    from ai_edge_litert import interpreter

    model = interpreter.Interpreter(str(path), num_threads=1)
    model.allocate_tensors()
    source = model.get_input_details()[0]
    x = np.random.default_rng(0).normal(size=source["shape"])
    model.set_tensor(source["index"], x.astype(source["dtype"]))
    return lambda: model.invoke()


def _profile(path: Path, engine: str) -> None:
    from edgekit.profile import operators

    found = operators.profile_operators(path, path.name, engine)
    print(
        f"    by {found.method}; operators as measured add up to {found.raw_ms / found.total_ms - 1:+.0%} of the whole"
    )
    spent: Counter[str] = Counter()
    for row in found.rows:
        spent[row.op] += row.ms  # type: ignore[assignment]
    for op, ms in spent.most_common():
        print(f"    {op:<32} {sum(row.op == op for row in found.rows):>4} {ms:8.3f} ms")


# --- files


def make(name: str, folder: Path) -> None:
    """Write the six files of a net, except existing ones."""
    wanted = [f"{kind}.{suffix}" for kind in ("fp32", "int8", "peer") for suffix in ("onnx", "tflite")]
    if all((folder / each).exists() for each in wanted):
        return
    import torch
    from _nets import LEVELS, images, network

    from edgekit.config.recipe import QuantizeSection
    from edgekit.export.formats import onnx as to_onnx
    from edgekit.export.formats import tflite as to_tflite
    from edgekit.graph import exported_program
    from edgekit.quantize import ptq

    torch.set_num_threads(1)
    saved = folder / "quantized.pt2"
    module = network(name, SIZE)
    if not saved.exists():
        result = ptq.quantize(module, SIZE, images(8, SIZE, seed=1), LEVELS, QuantizeSection())
        exported_program.save(result.program, saved)
    for exporter in (to_onnx, to_tflite):
        suffix = exporter.__name__.rpartition(".")[2]
        for precision in ("fp32", "int8"):
            if not (folder / f"{precision}.{suffix}").exists():
                source = module if precision == "fp32" else exported_program.load(saved)
                made = exporter.export(source, SIZE, precision, folder)
                (folder / made.path).rename(folder / f"{precision}.{suffix}")
    batch = images(8, SIZE, seed=1).numpy()
    if not (folder / "peer.onnx").exists():
        _peer_onnx(folder, batch)
    if not (folder / "peer.tflite").exists():
        _peer_tflite(folder, batch.transpose(0, 2, 3, 1))


def _peer_onnx(folder: Path, batch: Array) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.images = iter(batch)

        def get_next(self) -> dict[str, Array] | None:
            image = next(self.images, None)
            return None if image is None else {"input": image[None]}

    prepared = folder / "prepared.onnx"
    quant_pre_process(str(folder / "fp32.onnx"), str(prepared))
    quantize_static(
        str(prepared),
        str(folder / "peer.onnx"),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    prepared.unlink()


def _peer_tflite(folder: Path, batch: Array) -> None:
    from ai_edge_litert import interpreter
    from ai_edge_quantizer import quantizer, recipe

    signature = interpreter.Interpreter(str(folder / "fp32.tflite")).get_signature_list()
    ((name, ports),) = signature.items()
    data = {name: [{ports["inputs"][0]: np.ascontiguousarray(image[None])} for image in batch]}
    tool = quantizer.Quantizer(str(folder / "fp32.tflite"), recipe.static_wi8_ai8())
    tool.quantize(tool.calibrate(data)).export_model(str(folder / "peer.tflite"))


if __name__ == "__main__":
    main()
