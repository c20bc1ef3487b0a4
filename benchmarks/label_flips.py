"""How many wrong labels `edgekit data check` finds: some labels of TrashNet are flipped, and then looked for.

Prints recall and precision of the suspects, and of those that are clear enough for ``relabel.csv``. Suspects that were
not flipped count as wrong here, although some of TrashNet's own labels are.

Usage::

    EDGEKIT_DATA=../shared python benchmarks/label_flips.py folder
    EDGEKIT_DATA=../shared python benchmarks/label_flips.py folder --share 0.1 --seed 1
"""

from __future__ import annotations

import argparse
import csv
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from edgekit.config import recipe_file, shipped
from edgekit.console import Console
from edgekit.data import index_file
from edgekit.datacheck.flow import BEFORE
from edgekit.datacheck.records import RELABEL, SUSPECTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--share", type=float, default=0.05, help="of the labels, how many are flipped")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    flags.folder.mkdir(parents=True, exist_ok=True)
    flips, out = flags.folder / "flips.csv", flags.folder / "check"
    flipped = flip(flips, flags.share, flags.seed)
    command = [sys.executable, "-m", "edgekit", "data", "check", "trashnet", "--set", f"data.relabel={flips.resolve()}"]
    subprocess.run([*command, "--out", str(out), "--quiet"], stdout=subprocess.DEVNULL, check=True)
    for name in (SUSPECTS, RELABEL):
        with (out / name).open(newline="") as file:
            found = {row["path"] for row in csv.DictReader(file) if row["reason"] != BEFORE}
        hits = len(found & flipped)
        recall, precision = hits / len(flipped), hits / max(len(found), 1)
        print(
            f"{name:<13} {len(found)} named, {hits} of {len(flipped)} flipped: {recall:.0%}, precision {precision:.0%}"
        )


def flip(table: Path, share: float, seed: int) -> set[str]:
    """Write a table that gives some images another class; returns their paths."""
    path = shipped.find("recipes", "trashnet")
    with tempfile.TemporaryDirectory() as work:
        data = recipe_file.load(path, ()).data
        index = index_file.build(data, path.resolve().parent, Path(work), Console(quiet=True))
    generator = random.Random(seed)
    chosen = generator.sample(index.samples, round(share * len(index.samples)))
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label"))
        for sample in chosen:
            others = [label for label in index.labels if label != index.labels[sample.label]]
            writer.writerow((sample.path, generator.choice(others)))
    return {sample.path for sample in chosen}


if __name__ == "__main__":
    main()
