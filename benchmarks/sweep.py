"""Which nets of timm and torchvision end in verified files: `edgekit compress` with 46 of them, as a user would run it.

Random weights on the scale of a trained net's, 64 px, digits as images, fp32 and int8 files for both engines. A row
says how the run ended, how many operators stay in float in each int8 file, and how many steps each engine is from
torch. Every row should end in "verified"; a convolutional net should show no float operators and 0 steps. Where an
operator has no int8 form, `quantize.float_operators = "allow"` keeps it in float, and the row names it.

Usage::

    python benchmarks/sweep.py                                       # all nets, about a minute each
    python benchmarks/sweep.py --json sweep.json mobilenetv2_100 torchvision/resnet18
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from _nets import network
from safetensors.torch import save_model
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

CONVOLUTIONAL = (
    "mobilenetv1_100",
    "mobilenetv2_050",
    "mobilenetv3_small_050",
    "mobilenetv3_large_100",
    "mobilenetv4_conv_small",
    "efficientnet_b0",
    "efficientnet_lite0",
    "efficientnet_es",
    "tf_efficientnetv2_b0",
    "mnasnet_small",
    "semnasnet_075",
    "fbnetc_100",
    "fbnetv3_b",
    "spnasnet_100",
    "hardcorenas_a",
    "tinynet_e",
    "lcnet_050",
    "mixnet_s",
    "rexnet_100",
    "ghostnet_050",
    "ghostnetv2_100",
    "ghostnetv3_100",
    "repghostnet_050",
    "mobileone_s0",
    "repvgg_a0",
    "repvit_m0_9",
    "starnet_s1",
    "dla46_c",
    "dla34",
    "densenet121",
    "resnetv2_18",
    "resnet18",
    "regnety_002",
    "torchvision/squeezenet1_1",
    "torchvision/googlenet",
    "torchvision/shufflenet_v2_x0_5",
    "torchvision/mobilenet_v3_small",
)
ATTENTION = (
    "mobilenetv4_hybrid_medium",
    "fastvit_t8",
    "mobilevit_xxs",
    "mobilevitv2_050",
    "efficientvit_b0",
    "efficientvit_m0",
    "tiny_vit_5m_224",
    "convnext_atto",
    "edgenext_xx_small",
)
"""Nets with attention, layer norm or GELU: some of their operators have no int8 kernel in either engine."""
SIZE = 64
CLASSES = 10
OPTIONS: dict[str, dict[str, Any]] = {
    "efficientvit_m0": {"img_size": SIZE},
    "torchvision/googlenet": {"aux_logits": False, "init_weights": False},
}
RECIPE = """\
[model]
name    = {name}
weights = "weights.safetensors"
mean    = [0.5, 0.5, 0.5]
std     = [0.5, 0.5, 0.5]
[model.options]
{options}
[data]
source = "digits"
input  = {size}
[lower]
measure = false
[quantize]
calibration     = 32
max_drop        = 100
rescue          = []
sensitivity     = false
float_operators = "allow"
[export]
[verify]
images = 16
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NET", help="timm names, or torchvision/<name>; default: all 46")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, too")
    flags = parser.parse_args()
    rows = []
    print(f"{'net':<32} {'ended':<9} {'float operators':>15} {'most steps':>12} {'s':>4}")
    print(f"{'':<32} {'':<9} {'onnx   tflite':>15} {'ORT LiteRT':>12}")
    for name in flags.names or (*CONVOLUTIONAL, *ATTENTION):
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            row = {"net": name, **compress(name, Path(folder)), "seconds": round(time.perf_counter() - start)}
        rows.append(row)
        show(row)
        if flags.json:
            flags.json.write_text(json.dumps(rows, indent=2))
    verified = [row for row in rows if row["ended"] == "verified"]
    print(f"{len(verified)} of {len(rows)} end in verified files")
    clean = [row for row in verified if not any(row["float_operators"].values()) and not any(row["steps"].values())]
    print(f"{len(clean)} of them with no float operators and 0 steps")
    sys.exit(len(verified) < len(rows))


def compress(name: str, folder: Path) -> dict[str, Any]:
    """How one net ended; for a failure, edgekit's message."""
    options = OPTIONS.get(name, {})
    try:
        save_model(network(name, SIZE, CLASSES, options, digits()), str(folder / "weights.safetensors"))
    except Exception as error:  # not edgekit's failure, but a row all the same
        return {"ended": "not built", "message": str(error)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in options.items()]
    recipe = RECIPE.format(name=json.dumps(name), options="\n".join(lines), size=SIZE)
    (folder / "net.toml").write_text(recipe)
    command = [sys.executable, "-m", "edgekit", "compress", "net.toml", "--out", "run", "--json", "--quiet"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if result.returncode:
        crashed = "unexpected" in result.stderr or "Traceback" in result.stderr
        return {"ended": "crashed" if crashed else "refused", "message": result.stderr.strip()}
    with next((folder / "run").glob("*-export/artifacts.json")).open() as file:
        artifacts = [each for each in json.load(file) if each["precision"] == "int8"]
    with next((folder / "run").glob("*-verify/accuracy.json")).open() as file:
        accuracy = {each["artifact"]: each for each in json.load(file)}
    return {
        "ended": "verified",
        "float_operators": {each["format"]: each["float_op_names"] for each in artifacts},
        "steps": {each["format"]: round(accuracy[each["id"]]["max_steps"], 2) for each in artifacts},
    }


def digits() -> Tensor:
    """Some of the recipe's images, about as it prepares them: float32 (32, 3, 64, 64)."""
    pixels = torch.from_numpy(load_digits().images[::50][:32]).float()[:, None] / 16
    return (functional.interpolate(pixels, SIZE, mode="bilinear").expand(-1, 3, -1, -1) - 0.5) / 0.5


def show(row: dict[str, Any]) -> None:
    """One line on stdout, and what stays in float or went wrong below it."""
    if row["ended"] != "verified":
        print(f"{row['net']:<32} {row['ended']:<9} {'':>15} {'':>12} {row['seconds']:>4}")
        print("    " + row["message"].replace("\n", "\n    "), flush=True)
        return
    floats = "{:>6} {:>8}".format(*(len(names) for names in row["float_operators"].values()))
    steps = "{:>5} {:>6}".format(*row["steps"].values())
    print(f"{row['net']:<32} {row['ended']:<9} {floats:>15} {steps:>12} {row['seconds']:>4}")
    for format_, names in row["float_operators"].items():
        if names:
            kinds = Counter(name.partition(" ")[0] for name in names)
            print(f"    {format_}: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
