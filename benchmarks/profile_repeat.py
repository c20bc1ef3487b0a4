"""Do two profiles of the same file agree within their stated intervals?

    python benchmarks/profile_repeat.py [MODEL.tflite|MODEL.onnx] [--tries 100] [--seconds 1] [--rounds 5]

The profile stage measures one file twice, each time in a new process, and `edgekit.profile._stats.ratio` says whether
the two p50 differ. Printed: in how many tries they did not (95 of 100 are promised on a quiet machine), and the median
width of the interval, which tells what difference could have been found. Without a file a small convolutional net is
built.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median

from profile_fidelity import small_onnx

from edgekit.console import Console
from edgekit.device import Device
from edgekit.profile import _stats
from edgekit.profile.run import profile
from edgekit.types import Artifact, TensorSpec, Timing


def measured(path: Path, seconds: float, rounds: int) -> Timing:
    """One profile of one file, one thread."""
    onnx = path.suffix == ".onnx"
    tensor = TensorSpec("", (), "", "NHWC")
    artifact = Artifact("model", "onnx" if onnx else "tflite", "", path.name, "", 0, 0, (), tensor, tensor)
    run = {"engines": ["onnxruntime" if onnx else "litert"], "threads": [1], "seconds": seconds, "rounds": rounds}
    device = Device.model_validate({"name": "host", "run": run})
    return profile([artifact], path.parent, {"host": device}, Console(quiet=True)).timings[0]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--tries", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.model
        if path is None:
            path = Path(folder) / "small.onnx"
            small_onnx(path)
        found = []
        for _ in range(options.tries):
            a, b = (measured(path.resolve(), options.seconds, options.rounds) for _ in range(2))
            found.append(_stats.ratio(a, b))
    agree = sum(not each.differs for each in found)
    widths = [each.ci[1] - each.ci[0] for each in found if each.ci]
    print(f"{path.name}: {agree} of {len(found)} pairs agree")
    print(f"ratio of p50: least {min(r.value for r in found):.3f}, largest {max(r.value for r in found):.3f}")
    print(f"interval of the ratio: median width {100 * median(widths):.1f} %")


if __name__ == "__main__":
    main()
