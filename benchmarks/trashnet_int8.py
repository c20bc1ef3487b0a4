"""int8 against float on TrashNet's test images, both formats: MobileNetV2, MobileNetV3-small, EfficientNet-B0.

MobileNetV2 starts from ImageNet weights. The other two have none in the shared data, so they are trained from
scratch at 128 px: their accuracy is low, but only what int8 loses counts here. Runs stay in the folder, and finished
stages are reused.

Usage::

    python benchmarks/trashnet_int8.py folder
    python benchmarks/trashnet_int8.py folder mobilenetv3_small_100
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from _nets import SCRATCH

NETS: dict[str, tuple[str, ...]] = {
    "mobilenetv2_100": (),
    "mobilenetv3_small_100": (*SCRATCH, "train.epochs=30"),
    "efficientnet_b0": (*SCRATCH, "train.epochs=16"),
}
MAX_DROP = 0.5
"""Points of test top-1 that int8 may lose."""
LADDER = 1.0
"""The ladder's target on the validation split, whose 328 images are too few to resolve half a point."""


def main() -> None:
    folder = Path(sys.argv[1])
    for name in sys.argv[2:] or NETS:
        changes = [
            word
            for change in (f"model.name={name}", f"quantize.max_drop={LADDER}", *NETS[name])
            for word in ("--set", change)
        ]
        command = [sys.executable, "-m", "edgekit", "compress", "trashnet", "--out", str(folder / name), *changes]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        rows = json.loads((folder / name / "7-verify" / "accuracy.json").read_text())
        exact = next(row["top1"] for row in rows if row["artifact"] == "torch-fp32")
        for row in rows:
            drop = 100 * (exact - row["top1"])
            held = ("" if drop <= MAX_DROP + 1e-9 else "  MISSED") if "int8" in row["artifact"] else ""
            print(
                f"{name:<22} {row['artifact']:<12} {row['engine']:<12} top-1 {row['top1']:.2%} ({-drop:+.2f}), "
                f"agrees with fp32 {row['agreement']:.2%}, {row['images']} images{held}"
            )


if __name__ == "__main__":
    main()
