"""Where the time goes in fp32 and int8 files of a net on both engines, one thread, 224 px: what int8 gains, and where.

Files are those of `int8_speed.py`. Families of operators are set side by side, then the hottest operators of the int8
file, and what limits the ratio: families that gain less than the whole net.

Usage::

    python benchmarks/operators.py                                       # the three nets below, some minutes
    python benchmarks/operators.py efficientnet_b0 --keep speed --seconds 20
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from _nets import network
from int8_speed import SIZE, make
from torch import nn

from edgekit.measurements import OperatorProfile
from edgekit.profile import operators

NETS = ("mobilenetv3_small_100", "mobilenetv3_large_100", "efficientnet_b0")
ENGINES = {"onnxruntime": "onnx", "litert": "tflite"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", default=NETS)
    parser.add_argument("--keep", type=Path, help="folder of the files; existing ones are reused")
    parser.add_argument("--seconds", type=float, default=15.0, help="for each file on each engine")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for name in arguments.nets:
            folder = (arguments.keep or Path(temporary)) / name
            folder.mkdir(parents=True, exist_ok=True)
            make(name, folder)
            modules = network(name, SIZE).named_modules()
            depthwise = {name for name, part in modules if isinstance(part, nn.Conv2d) and part.groups > 1}
            for engine in ENGINES:
                show(name, folder, engine, arguments.seconds, depthwise)


def show(name: str, folder: Path, engine: str, seconds: float, depthwise: set[str]) -> None:
    """Print both files of a net on one engine."""
    form = ENGINES[engine]
    before, after = (
        operators.profile_operators(folder / f"{kind}.{form}", f"{form}-{kind}", engine, 1, seconds)
        for kind in ("fp32", "int8")
    )
    print(f"\n{name} on {engine} {after.engine_version}, {after.method}")
    for profile in (before, after):
        off = profile.raw_ms / profile.total_ms - 1
        print(f"  {profile.artifact}: {profile.total_ms:.3f} ms; operators as measured add up to it {off:+.0%}")
    for word, kept in (("depthwise", True), ("others", False)):
        parts = [sum(row.ms for row in _convolutions(each, depthwise, kept).rows) for each in (before, after)]
        print(
            f"  convolutions, {word:<10} fp32 {parts[0]:7.3f} ms   int8 {parts[1]:7.3f} ms {parts[0] / parts[1]:5.2f}x"
        )
    print(f"  {'':<20} {'fp32 ms':>8} {'int8 ms':>8} {'gain':>6} {'of int8':>8}")
    ratio = before.total_ms / after.total_ms
    for row in sorted(operators.compare_families(before, after), key=lambda row: -row.after_ms):
        gain = f"{row.before_ms / row.after_ms:5.2f}x" if row.after_ms else "     -"
        slow = "   <- below the net's" if row.after_ms > max(row.before_ms / ratio, 0.02 * after.total_ms) else ""
        share = row.after_ms / after.total_ms
        print(f"  {row.name:<20} {row.before_ms:8.3f} {row.after_ms:8.3f} {gain:>6} {share:8.1%}{slow}")
    print(f"  hottest of int8 ({'fp32 of the same layer':>22})")
    layers = {row.name: row.before_ms for row in operators.compare(before, after)}
    for hot in operators.hottest(after):
        print(
            f"  {hot.ms:8.3f} ms {hot.share:6.1%}  {hot.op:<26} {hot.layer:<32} ({layers[hot.layer]:.3f})  {hot.where}"
        )
    print(f"  {operators.because(before, after)}.", flush=True)


def _convolutions(profile: OperatorProfile, layers: set[str], inside: bool) -> OperatorProfile:
    """Only the convolutions inside or outside of these layers."""
    rows = [row for row in profile.rows if operators.family(row.op) == "convolutions"]
    return replace(profile, rows=tuple(row for row in rows if (row.layer in layers) == inside))


if __name__ == "__main__":
    main()
