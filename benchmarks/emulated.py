"""MobileNetV2 on the emulated Raspberry Pi 4 and 5: do counts repeat, do int8 outputs agree, how good are estimates?

For each board, engine and precision, at 224 px and with random weights: the instructions and bytes of one inference,
counted in two processes; for int8 files the largest difference, in output steps, from what this machine computes for
the same inputs; the estimated latency at 4 threads with its error bar, and how far it is from the published time where
there is one. Then, for every published time in the device files, the estimate from the counts recorded there. Nothing
is timed, so a busy machine does not matter. Needs ``edgekit devices setup rpi4-emulated`` and ``rpi5-emulated``.

Usage::

    python benchmarks/emulated.py                       # makes the files first, which takes minutes
    python benchmarks/emulated.py --files speed         # uses those of int8_speed.py --keep speed
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from edgekit.config import shipped
from edgekit.device import file as device_file
from edgekit.device.file import Device
from edgekit.profile import _estimate
from edgekit.reach.ways import qemu
from edgekit.runtime import engine_menu
from edgekit.runtime.bench import random_input
from edgekit.types import HOST_ENGINES

DEVICES = ("rpi4-emulated", "rpi5-emulated")
NET = "mobilenetv2_100"
INPUTS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=Path, help="folder with mobilenetv2_100/{fp32,int8}.{onnx,tflite}")
    arguments = parser.parse_args()
    boards = [device_file.load(shipped.find("devices", name)) for name in DEVICES]
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.files or Path(temporary)) / NET
        if not all(
            (folder / f"{precision}.{suffix}").is_file() for precision in ("fp32", "int8") for suffix in HOST_ENGINES
        ):
            import int8_speed

            folder.mkdir(parents=True, exist_ok=True)
            int8_speed.make(NET, folder)
        for board in boards:
            for suffix in HOST_ENGINES:
                for precision in ("int8", "fp32"):
                    _show(board, folder / f"{precision}.{suffix}", precision)
    for board in boards:
        _published(board)


def _show(board: Device, model: Path, precision: str) -> None:
    engine = HOST_ENGINES[model.suffix[1:]]
    first, second = (qemu.count(model, engine, board) for _ in range(2))
    apart = abs(first.instructions - second.instructions)
    repeat = "repeats exactly" if first == second else f"repeats except for {apart} ({apart / first.instructions:.0e})"
    assert board.estimate is not None
    fit = _estimate.fit(board.estimate.published)
    ms = fit.ms(first)
    bar = _estimate.bar(fit, ms, engine, board.estimate)
    print(
        f"{board.name:<14} {engine:<12} {precision}  {first.instructions / 1e6:7.1f} M instructions, "
        f"{first.loaded / 1e6:6.1f} MB loaded, {first.stored / 1e6:5.1f} MB stored, {repeat}; "
        f"estimated {ms:5.1f} ms +-{bar:.0%}",
        flush=True,
    )
    if precision == "int8":
        print(f"{'':<14} {'':<12} int8  {_steps(board, model, engine)} steps from this machine's outputs", flush=True)


def _steps(board: Device, model: Path, engine: str) -> float:
    """Largest difference, in output steps if the file states them, else in distinct values."""
    session = engine_menu.engine(engine).load(str(model), 1)
    inputs = np.concatenate([random_input(session.input, seed) for seed in range(INPUTS)])
    here = np.concatenate([session.run(each[None]) for each in inputs]).astype(np.float64)
    there = qemu.outputs(model, engine, board, inputs).astype(np.float64)
    step = 1.0 if session.output.dtype != "float32" else float(np.diff(np.unique(here)).min())
    return float(np.round(np.abs(there - here).max() / step, 2))


def _published(board: Device) -> None:
    assert board.estimate is not None
    fit = _estimate.fit(board.estimate.published)
    print(f"\n{board.name}: published at {board.estimate.threads} threads; error bar {fit.error:.0%}")
    for row in board.estimate.published:
        used = "fitted  " if row.fit else "kept out"
        print(
            f"  {used} {row.net:<24} {row.ms:6.2f} ms, estimated {fit.ms(row):6.2f} "
            f"({_estimate.relative_error(fit, row):+.0%})   {row.source}"
        )


if __name__ == "__main__":
    main()
