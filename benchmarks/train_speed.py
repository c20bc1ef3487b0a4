"""How fast `edgekit train` is: against a plain loop with the same network, batch and images, and in two processes.

Prints images per second of the last of three epochs on TrashNet at 160 px, MobileNetV2 with random weights, all in one
run: edgekit and the plain loop with all threads; then edgekit with one process and with two, one thread each and no
processes for images, and two trainings that do not know of each other, which is what memory and caches of this machine
allow. Within each group they take turns for some rounds; the medians count. The comparison of processes is done twice:
with batch norms that keep their statistics, as the recipe has them, and with those that see the images of all
processes, which have to meet at each of them, forward and back. Bars: at least 0.95 of the plain loop, less than 3 % of
the time spent waiting for images, and at least 1.7 times one process.

Usage::

    EDGEKIT_DATA=../shared python benchmarks/train_speed.py folder
    EDGEKIT_DATA=../shared python benchmarks/train_speed.py folder --images 640 --batch 64 --rounds 5
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import timm
import torch
from torch.nn import functional
from torch.utils.data import DataLoader

from edgekit.config import recipe_file, shipped
from edgekit.data import index_file
from edgekit.data.dataset import ImageSet
from edgekit.types import InputSpec

SHARE, WAIT, TIMES = 0.95, 0.03, 1.7
NORMS = ("frozen", "train")
CHANGES = ("model.weights=none", "train.epochs=3", "train.frozen=0", "train.ema=")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=640, help="training images that are used")
    parser.add_argument("--batch", type=int, default=32, help="images of a step, of all processes together")
    parser.add_argument("--rounds", type=int, default=3, help="how often each takes its turn")
    parser.add_argument(
        "--batch-norm", nargs="+", choices=NORMS, default=NORMS, help="what processes are compared with"
    )
    flags = parser.parse_args()
    labels = few(flags.folder, flags.images)
    cores = len(os.sched_getaffinity(0))
    run = partial(edgekit, flags.folder, labels)
    batch = f"train.batch={flags.batch}"
    ours, plains = [], []
    for turn in range(flags.rounds):
        ours.append(run([batch, "train.batch_norm=train"], f"whole-{turn}", 1, cores))
        with ProcessPoolExecutor(1, get_context("spawn")) as fresh:  # each loop forks its worker with little memory
            data = flags.folder / f"whole-{turn}" / "1-data"
            plains.append(fresh.submit(plain_loop, data, flags.batch, cores).result())
    rates, waits = zip(*ours, strict=True)
    ratio, wait = median(rates) / median(plains), median(waits)
    print("images/s with all threads, median (least to most):")
    print(f"  edgekit {said(rates)}, {wait:.1%} of the time waiting for images{missed(wait <= WAIT)}")
    print(f"  plain loop {said(plains)}; edgekit is {ratio:.2f} times as fast{missed(ratio >= SHARE)}", flush=True)
    for norms in flags.batch_norm:
        changes = [batch, f"train.batch_norm={norms}", "train.workers=0"]
        print(f"batch {flags.batch}, one thread each, batch_norm = {norms}:")
        processes(partial(run, changes), norms, flags.rounds)


def processes(run: Callable[[str, int, int], tuple[float, float]], name: str, rounds: int) -> None:
    """Compare two processes with one, and with two trainings that share nothing but the machine."""
    ones, twos, aparts = [], [], []
    for turn in range(rounds):
        ones.append(run(f"{name}-one-{turn}", 1, 1)[0])
        twos.append(run(f"{name}-two-{turn}", 2, 1)[0])
        with ThreadPoolExecutor() as pool:
            names = (f"{name}-apart-{turn}-{place}" for place in range(2))
            aparts.append(sum(rate for rate, _ in pool.map(lambda each: run(each, 1, 1), names)))
    one, two, apart = median(ones), median(twos), median(aparts)
    print(f"  images/s, median (least to most): one {said(ones)}, two {said(twos)}, two apart {said(aparts)}")
    print(f"  two processes are {two / one:.2f} times one{missed(two >= TIMES * one)}")
    print(f"  two trainings that know nothing of each other are {apart / one:.2f} times one", flush=True)


def said(rates: Sequence[float]) -> str:
    return f"{median(rates):.1f} ({min(rates):.1f} to {max(rates):.1f})"


def few(folder: Path, images: int) -> Path:
    """A labels CSV of the first images of each of TrashNet's six classes."""
    folder.mkdir(parents=True, exist_ok=True)
    root = Path(os.environ["EDGEKIT_DATA"]).resolve() / "data" / "trashnet" / "train"
    rows: list[tuple[Path, str]] = []
    for kind in sorted(path for path in root.iterdir() if path.is_dir()):
        rows += [(path, kind.name) for path in sorted(kind.glob("*.jpg"))[: images // 6]]
    file = folder / "labels.csv"
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(("file", "label"))
        writer.writerows(rows)
    return file


def edgekit(
    folder: Path, labels: Path, changes: Sequence[str], name: str, processes: int, threads: int
) -> tuple[float, float]:
    """Images per second of the last epoch, and the share of its time spent waiting for them."""
    data = ("data.source=csv_labels", f"data.path={labels.resolve()}", "data.val=0.05", "data.test=0.05")
    words = [word for change in (*CHANGES, *data, *changes) for word in ("--set", change)]
    command = [sys.executable, "-m", "edgekit", "train", "trashnet", "--out", str(folder / name), *words]
    if processes > 1:
        command += ["--processes", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    with (folder / name / "2-train" / "training.csv").open(newline="") as file:
        row = list(csv.DictReader(file))[-1]
    return float(row["images_per_second"]), float(row["image_wait"])


def plain_loop(data: Path, batch: int, workers: int) -> float:
    """Images per second of the last epoch of a loop as one writes it."""
    recipe = recipe_file.load(shipped.find("recipes", "trashnet"), ())
    assert recipe.train is not None
    index, root = index_file.load_rooted(data)
    spec = InputSpec(160, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    images = ImageSet(index, root, "train", spec, recipe.train.augment, 0)
    images.preload()
    torch.set_num_threads(workers)
    module = timm.create_model(recipe.model.name, num_classes=len(index.labels), **recipe.model.options)
    module = module.to(memory_format=torch.channels_last)
    module.train()
    solver = torch.optim.AdamW(module.parameters(), lr=1e-3)
    batches = DataLoader(
        images, batch, shuffle=True, num_workers=1, persistent_workers=True, multiprocessing_context="fork"
    )
    rate = 0.0
    for _ in range(3):
        began, seen = time.perf_counter(), 0
        for values, labels in batches:
            loss = functional.cross_entropy(module(values.to(memory_format=torch.channels_last)), labels)
            solver.zero_grad()
            torch.autograd.backward(loss)
            solver.step()
            seen += len(labels)
        rate = seen / (time.perf_counter() - began)
    return rate


def missed(held: bool) -> str:
    return "" if held else "  MISSED"


if __name__ == "__main__":
    main()
