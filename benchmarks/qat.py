"""What quantization-aware training takes back of what post-training quantization loses, and which of its choices do.

The hard case is MobileNetV3-small without weights, trained on TrashNet at 128 px and pruned to 35 % of its
multiply-adds. Scores are those of all validation and test images. Most wrong answers of such a net are close calls, so
that its top-1 changes by a point by chance: the distance to the float network (KL divergence of the class
probabilities) and the share of images with the same class say more.

Usage::

    python benchmarks/qat.py folder                 # trains there first
    python benchmarks/qat.py folder --run RUN       # of a finished run
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _nets import SCRATCH
from torch import Tensor
from torch.nn import functional

from edgekit.config import recipe_file
from edgekit.console import Console
from edgekit.data import index_file
from edgekit.data.dataset import ImageSet, batches
from edgekit.disk.run_directory import RunDirectory
from edgekit.graph import integer_arithmetic
from edgekit.graph.logits import per_class
from edgekit.pipeline.port import Skip
from edgekit.pipeline.stages import quantize as stage
from edgekit.pipeline.state import Job, Run
from edgekit.quantize import ptq
from edgekit.search.ladder import Material
from edgekit.train import qat
from edgekit.types import Split

HARD = ("model.name=mobilenetv3_small_100", *SCRATCH, "train.epochs=40", "prune.macs=0.35", "prune.recover=20")
AFTER: dict[str, dict[str, Any]] = {
    "range mse": {"range": "mse", "rounding": "nearest"},
    "+ equalize, adaptive rounding": {"range": "mse", "rounding": "adaptive", "equalize": True},
}
DURING: dict[str, dict[str, Any]] = {
    "defaults": {},
    "ranges frozen from the start": {"freeze": 0.0},
    "batch norms train": {"batch_norm": "train"},
    "weights averaged": {"ema": 0.98},
    "3 epochs": {"epochs": 3},
    "12 epochs": {"epochs": 12},
}


def main() -> None:
    """Train if need be, quantize in all ways, and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--run", type=Path, help="default: the hard case, in the folder")
    parser.add_argument("--only", nargs="+", choices=DURING, default=list(DURING))
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    options = parser.parse_args()
    home = options.run or options.folder / "hard"
    if options.run is None:
        changes = [word for change in HARD for word in ("--set", change)]
        command = [sys.executable, "-m", "edgekit", "prune", "trashnet", "--out", str(home), *changes]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    loaded, base = recipe_file.resume(home / "recipe.json", options.set)
    run = Run(Job(loaded, base, home, {}), RunDirectory(home), Console(quiet=True))
    for name in ("data", "train", "prune", "lower"):
        done = run.directory.find(name)
        if done is not None:
            run.done[name] = done
    section = stage.section(run)
    if isinstance(section, Skip):
        raise SystemExit(section.reason)
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        compare(run, stage.material(run, section, Path(scratch)), section, options.only)


def compare(run: Run, given: Material, section: Any, names: list[str]) -> None:
    index, root = index_file.load_rooted(run.done["data"].path)
    splits: tuple[Split, ...] = ("val", "test")
    pairs = [pair for split in splits for pair in batches(ImageSet(index, root, split, given.images.spec), 64)]
    images, labels = (torch.cat(list(each)) for each in zip(*pairs, strict=True))
    wanted = of(given.module, images, 64)
    print(f"{'':44}  top-1    lost   agrees   distance  loss    seconds   ({len(labels)} images)")
    row("float", wanted, wanted, labels, 0.0)
    for name, choices in AFTER.items():
        row(f"calibrated, {name}", integers(made(given, section, choices), images), wanted, labels, 0.0)
    start = made(given, section, {"range": "mse", "rounding": "nearest", "equalize": False})
    for name in names:
        chosen = section.model_copy(update={"method": "qat", "qat": section.qat.model_copy(update=DURING[name])})
        began = time.perf_counter()
        trained = qat.train(
            given.module, given.size, start.program.module(), given.train, given.val, given.pixels, chosen,
            Console(quiet=True), given.rewrites, given.teacher,
        )  # fmt: skip
        row(f"trained, {name}", integers(trained, images), wanted, labels, time.perf_counter() - began)


def made(given: Material, section: Any, choices: dict[str, Any]) -> ptq.Result:
    chosen = section.model_copy(update={"method": "ptq", **choices})
    return ptq.quantize(given.module, given.size, given.images, given.pixels, chosen, given.rewrites)


def integers(result: ptq.Result, images: Tensor) -> Tensor:
    return of(integer_arithmetic.integer_graph(result.program.module()), images, 1)


def of(network: Any, images: Tensor, batch: int) -> Tensor:
    """Logits, images x classes."""
    with torch.no_grad():
        return per_class(torch.cat([network(part) for part in torch.split(images, batch)]))


def row(name: str, logits: Tensor, wanted: Tensor, labels: Tensor, seconds: float) -> None:
    top1, exact = ((each.argmax(1) == labels).double().mean().item() for each in (logits, wanted))
    agrees = (logits.argmax(1) == wanted.argmax(1)).double().mean().item()
    found, aim = functional.log_softmax(logits, 1), functional.log_softmax(wanted, 1)
    distance = functional.kl_div(found, aim, reduction="batchmean", log_target=True).item()
    loss = functional.nll_loss(found, labels).item()
    scores = f"{top1:.2%}  {100 * (exact - top1):+.2f}  {agrees:.2%}  {distance:.4f}    {loss:.4f}"
    print(f"{name:<44}  {scores}  {seconds:>7.0f}", flush=True)


if __name__ == "__main__":
    main()
