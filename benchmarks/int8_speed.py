"""int8 against fp32 of the same net on each engine, one thread, 224 px, beside int8 files of the usual tools.

The peers are ONNX Runtime's `quantize_static` (per channel, uint8 activations, int8 weights, after
`quant_pre_process`), ai-edge-quantizer (`static_wi8_ai8`) and, in OpenVINO, NNCF (its mixed preset), each on our fp32
file. OpenVINO and its peer are left out where they are not installed: ``pip install openvino nncf``; "as filed" is our
int8 file in it without what edgekit's engine changes. "exact" is our int8 file in ONNX Runtime with the option that
keeps products from saturating on x86 without VNNI; edgekit sets it only there, and then it is left out. Weights and
calibration images are random: speed does not depend on them, accuracy is not measured here. All files are timed in one
process, in short interleaved rounds; a ratio is the median over the rounds of one over the other within a round, so
that a busy machine slows both. Behind each net: the best of our int8 over the best of all peers', and over the best
float of any engine.

Usage::

    python benchmarks/int8_speed.py                                    # the nets of the table, minutes each
    python benchmarks/int8_speed.py mobilenetv2_100 --keep speed       # keep the files, so that timing again is quick
    python benchmarks/int8_speed.py mobilenetv2_100 --profile          # also: milliseconds by operator of our file
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
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
BARS = {
    "mobilenetv2_100": 2.1,
    "mobilenetv3_small_100": 1.4,
    "mobilenetv3_large_100": 1.6,
    "efficientnet_b0": 1.7,
    "efficientnet_lite0": 2.3,
    "mobilenetv4_conv_small": 2.3,
}
"""Least ratio of the best float of any engine to our best int8."""
WARMUP, RUNS, ROUNDS = 5, 10, 40
Array = npt.NDArray[Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", default=NETS)
    parser.add_argument("--keep", type=Path, help="folder for the files; existing ones are reused")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--profile", action="store_true", help="time the operators of our int8 file")
    parser.add_argument("--size", type=int, default=SIZE, help="side of the image")
    parser.add_argument("--time", help=argparse.SUPPRESS)  # for the processes started below
    arguments = parser.parse_args()
    if arguments.time:
        print(json.dumps(_time(Path(arguments.time), arguments.rounds, arguments.profile)))
        return
    ratios: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name in arguments.nets:
            folder = (arguments.keep or Path(temporary)) / name
            folder.mkdir(parents=True, exist_ok=True)
            make(name, folder, arguments.size)
            command = [sys.executable, __file__, "--time", str(folder), "--rounds", str(arguments.rounds)]
            command += ["--profile"] if arguments.profile else []
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            *lines, last = said.splitlines()
            print("\n".join(lines), flush=True)
            ratios[name] = json.loads(last)
    print(f"\n{'net':<24} {'over the best peer':>20} {'over the best float':>21}")
    for name, (peer, float_) in ratios.items():
        print(f"{name:<24} {peer:>19.2f}x {float_:>20.2f}x   (bar {BARS.get(name, 0)})")
    peers = [peer for peer, _ in ratios.values()]
    print(f"over the best peer: least {min(peers):.2f}, at least 1.25 on {sum(peer >= 1.25 for peer in peers)}")


# --- timing


def _time(folder: Path, rounds: int, profile: bool) -> tuple[float, float]:
    """Print a line for each engine; the best of ours over the best peer, and over the best float."""
    from edgekit.runtime.engines import onnxruntime

    runners = {"onnxruntime": ("onnx", _ort), "litert": ("tflite", _litert)}
    if find_spec("openvino"):
        runners["openvino"] = ("onnx", _openvino)
    calls = {}
    for engine, (suffix, run) in runners.items():
        for kind in ("fp32", "int8", "peer"):
            file = folder / ("peer.xml" if (engine, kind) == ("openvino", "peer") else f"{kind}.{suffix}")
            if file.exists():
                calls[engine, kind] = run(file)
    if not onnxruntime.saturates():
        calls["onnxruntime", "exact"] = _exact_ort(folder / "int8.onnx")
    if "openvino" in runners:
        calls["openvino", "plain"] = _plain_openvino(folder / "int8.onnx")
    for call in calls.values():
        repeat(call, WARMUP)
    taken: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    for _ in range(rounds):
        for key, call in calls.items():
            taken[key].append(statistics.median(repeat(call, RUNS)))

    def ratio(one: list[tuple[str, str]], other: list[tuple[str, str]]) -> float:
        """Of the best of one list to the best of the other, within a round: the median over the rounds."""
        best = [min(keys, key=lambda key: statistics.median(taken[key])) for keys in (one, other)]
        above, below = (taken[key] for key in best)
        return statistics.median(a / b for a, b in zip(above, below, strict=True))

    for engine in runners:
        words = [f"{folder.name:<24} {engine:<12}"]
        for kind, title in (
            ("fp32", "fp32"),
            ("int8", "ours"),
            ("exact", "exact"),
            ("plain", "as filed"),
            ("peer", "peer"),
        ):
            if (engine, kind) in taken:
                words.append(f"{title} {statistics.median(taken[engine, kind]):6.2f} ms")
                words += [f"{ratio([(engine, 'fp32')], [(engine, kind)]):5.2f}x"] if kind != "fp32" else []
        print("  ".join(words))
        if profile:
            _profile(folder / f"int8.{runners[engine][0]}", engine)
    kinds = {kind: [key for key in taken if key[1] == kind] for kind in ("fp32", "int8", "peer")}
    return ratio(kinds["peer"], kinds["int8"]), ratio(kinds["fp32"], kinds["int8"])


def repeat(call: Callable[[], object], count: int) -> list[float]:
    """Milliseconds of each call."""
    taken = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        taken.append((time.perf_counter() - start) * 1000)
    return taken


def _ort(path: Path) -> Callable[[], object]:
    from edgekit.runtime.engines import onnxruntime

    return _calls(onnxruntime.cpu_session(str(path)))


def _exact_ort(path: Path) -> Callable[[], object]:
    from onnxruntime import InferenceSession

    from edgekit.runtime.engines import onnxruntime

    options = onnxruntime.session_options(1)
    options.add_session_config_entry("session.x64quantprecision", "1")
    return _calls(InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))


def _calls(session: Any) -> Callable[[], object]:
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


def _openvino(path: Path) -> Callable[[], object]:
    from edgekit.runtime.engines import openvino

    if path.suffix != ".onnx":  # NNCF's
        return _plain_openvino(path)
    session = openvino.load(str(path))
    x = np.random.default_rng(0).normal(size=session.input.shape).astype(np.float32)
    return lambda: session.run(x)


def _plain_openvino(path: Path) -> Callable[[], object]:
    """A file as it is, with the properties that edgekit sets."""
    from edgekit.runtime.engines import openvino

    compiled = openvino._core().compile_model(str(path), "CPU", openvino.hints("f32", 1))
    request = compiled.create_infer_request()
    x = np.random.default_rng(0).normal(size=tuple(compiled.inputs[0].shape)).astype(np.float32)
    return lambda: request.infer([x], share_inputs=True)


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


def make(name: str, folder: Path, size: int = SIZE) -> None:
    """Write the files of a net, except existing ones."""
    wanted = [f"{kind}.{suffix}" for kind in ("fp32", "int8", "peer") for suffix in ("onnx", "tflite")]
    wanted += ["peer.xml"] if find_spec("nncf") and find_spec("openvino") else []
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
    module = network(name, size)
    if not saved.exists():
        result = ptq.quantize(module, size, images(8, size, seed=1), LEVELS, QuantizeSection())
        exported_program.save(result.program, saved)
    for exporter in (to_onnx, to_tflite):
        suffix = exporter.__name__.rpartition(".")[2]
        for precision in ("fp32", "int8"):
            if not (folder / f"{precision}.{suffix}").exists():
                source = module if precision == "fp32" else exported_program.load(saved)
                made = exporter.export(source, size, precision, folder)
                (folder / made.path).rename(folder / f"{precision}.{suffix}")
    batch = images(8, size, seed=1).numpy()
    if not (folder / "peer.onnx").exists():
        _peer_onnx(folder, batch)
    if not (folder / "peer.tflite").exists():
        _peer_tflite(folder, batch.transpose(0, 2, 3, 1))
    if "peer.xml" in wanted and not (folder / "peer.xml").exists():
        _peer_openvino(folder, batch)


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


def _peer_openvino(folder: Path, batch: Array) -> None:
    from edgekit.runtime.engines import openvino

    package = openvino._package()
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # NNCF, too, does without it
    import nncf

    graph = openvino._core().read_model(str(folder / "fp32.onnx"))
    data = nncf.Dataset([image[None] for image in batch])
    made = nncf.quantize(graph, data, preset=nncf.QuantizationPreset.MIXED, subset_size=len(batch))
    package.save_model(made, str(folder / "peer.xml"), compress_to_fp16=False)


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
