"""Workers of one search are killed at random: is any trial lost or done twice?

    python benchmarks/tune_workers.py journal
    python benchmarks/tune_workers.py postgres --trials 50 --workers 2 --every 4

Each trial trains a tiny network for one epoch on a part of the digits. Two processes run the same `edgekit tune`; at
random moments one of them gets SIGKILL, and is started again. What is counted comes from Optuna's own record and from
the run directories, not from edgekit's report. PostgreSQL is a real server on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

from tests import postgres, warm

RECIPE = """
name = "workers"
[model]
name       = "torchvision/mobilenet_v2"
weights    = "none"
[model.options]
inverted_residual_setting = [[1, 16, 1, 1], [4, 24, 1, 2]]
width_mult = 0.5
[data]
source = "digits"
input  = 16
val    = 0.3
test   = 0.5
[train]
epochs = 1
batch  = 64
[tune]
grace  = 5
[tune.space]
"train.lr"        = { low = 1e-4, high = 1e-1, log = true }
"train.optimizer" = ["adamw", "sgd"]
"train.seed"      = { low = 0, high = 1000000 }
"""


@dataclass(frozen=True)
class Found:
    """What was counted."""

    trials: int
    attempts: int
    kills: int
    killed_while_running: int
    lost: int
    doubled: int
    changed: int
    """Trials whose values are not those that the killed worker had."""
    seconds: float


@contextmanager
def _storage(kind: str, folder: Path) -> Iterator[tuple[str, optuna.storages.BaseStorage]]:
    """What ``--storage`` gets, and Optuna's own view of it."""
    if kind == "journal":
        path = folder / "trials.journal"
        path.touch()
        yield str(path), optuna.storages.JournalStorage(JournalFileBackend(str(path)))
        return
    with postgres.server() as server:
        url = server.url.replace("postgresql://", "postgresql+psycopg://")
        yield server.url, optuna.storages.RDBStorage(url)


def measure(kind: str, trials: int, workers: int, every: float, seed: int, kills: int | None) -> Found:
    """Run one search."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as name, _storage(kind, Path(name)) as (word, storage):
        folder = Path(name)
        (folder / "workers.toml").write_text(RECIPE)
        words = ["tune", str(folder / "workers.toml"), "--out", str(folder / "out"), "--storage", word]
        argv = ["-m", "edgekit", *words, "--trials", str(trials)]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        began, killed = time.monotonic(), 0
        running = [warm.Child(argv, env) for _ in range(workers)]
        due = time.monotonic() + chance.expovariate(1 / every)
        while any(child.running for child in running):
            time.sleep(0.02)
            alive = [place for place, child in enumerate(running) if child.running]
            if alive and time.monotonic() > due and (kills is None or killed < kills):
                place = chance.choice(alive)
                try:
                    running[place].kill()
                except ProcessLookupError:  # ended just now, or not begun yet
                    continue
                running[place].wait()
                killed += 1
                running[place] = warm.Child(argv, env)
                due = time.monotonic() + chance.expovariate(1 / every)
        for child in running:
            answer = child.wait()
            assert answer.returncode == 0, answer.stderr
        seconds = time.monotonic() - began
        study = optuna.load_study(study_name="workers", storage=storage)
        return _counted(study.trials, folder / "out", trials, killed, seconds)


def _counted(found: list[FrozenTrial], out: Path, trials: int, kills: int, seconds: float) -> Found:
    slots = Counter(one.user_attrs["slot"] for one in found if one.values)
    begun = [one for one in found if "worker" in one.user_attrs]
    changed = 0
    for one in begun:
        last = next(other for other in found if other.user_attrs.get("slot") == one.user_attrs["slot"] and other.values)
        changed += any(last.params[key] != value for key, value in one.params.items())
    for number in slots:
        folder = out / f"trial-{number:04}"
        assert (folder / "2-train" / "stage.json").is_file(), folder
        recipe = json.loads((folder / "recipe.json").read_text())["recipe"]
        done = next(one for one in found if one.user_attrs.get("slot") == number and one.values)
        assert recipe["train"]["lr"] == done.params["train.lr"], number
        top1 = json.loads((folder / "2-train" / "checkpoint.json").read_text())["metrics"][0]["accuracy"]
        assert done.values == [top1], number
    lost = sum(number not in slots for number in range(trials))
    doubled = sum(count > 1 for count in slots.values()) + sum(number >= trials for number in slots)
    assert tomllib.loads((out / "best.toml").read_text())["train"]["lr"] in [
        one.params["train.lr"] for one in found if one.values
    ]
    return Found(len(slots), len(begun), kills, len(begun) - len(slots), lost, doubled, changed, round(seconds, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("storage", choices=["journal", "postgres"])
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--every", type=float, default=8.0, help="mean seconds between two kills")
    parser.add_argument("--kills", type=int, help="at most so many")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    found = measure(asked.storage, asked.trials, asked.workers, asked.every, asked.seed, asked.kills)
    print(
        f"{asked.storage}: {found.trials} of {asked.trials} trials in {found.seconds:g} s by {asked.workers} workers; "
        f"{found.kills} kills, {found.killed_while_running} of them during a trial; {found.attempts} attempts; "
        f"{found.lost} lost, {found.doubled} doubled, {found.changed} begun again with other values"
    )
    raise SystemExit(bool(found.lost or found.doubled or found.changed))


if __name__ == "__main__":
    main()
