"""What a busy neighbour costs: `edgekit compress` of a recipe on a quiet machine, and with one core kept busy.

Prints the seconds of each stage and the ratio of the two, with OpenMP threads that sleep while they wait, as edgekit
has them, and with `--spin` also with threads that spin, as OpenMP has them. Bar: at most 2.2 times the quiet time.

Usage::

    EDGEKIT_DATA=../shared python benchmarks/busy.py folder
    EDGEKIT_DATA=../shared python benchmarks/busy.py folder --recipe digits --spin
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

BAR = 2.2
POLICIES = {"sleep": "PASSIVE", "spin": "ACTIVE"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--recipe", default="mobilenetv2-imagenet")
    parser.add_argument("--spin", action="store_true", help="also with threads that spin")
    flags = parser.parse_args()
    for policy in ("sleep", "spin") if flags.spin else ("sleep",):
        quiet, busy = (
            seconds(flags.folder / f"{policy}-{name}", flags.recipe, POLICIES[policy], name == "busy")
            for name in ("quiet", "busy")
        )
        print(f"waiting threads {policy}")
        for stage in quiet:
            print(f"  {stage:<10} {quiet[stage]:7.1f} s   busy {busy[stage]:7.1f} s")
        ratio = sum(busy.values()) / sum(quiet.values())
        print(f"  {ratio:.2f} times{'' if ratio <= BAR else '  MISSED'}", flush=True)


def seconds(out: Path, recipe: str, policy: str, busy: bool) -> dict[str, float]:
    """Seconds of each stage of a fresh run."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "edgekit", "compress", recipe, "--out", str(out), "--json", "--quiet"]
    with neighbour() if busy else nullcontext():
        environment = {**os.environ, "OMP_WAIT_POLICY": policy}
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    stages = json.loads(result.stdout)["stages"]
    return {stage["name"]: float(stage["seconds"]) for stage in stages if not stage["skipped"]}


@contextmanager
def neighbour() -> Iterator[None]:
    """Keep one core busy."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            yield
        finally:
            other.kill()


if __name__ == "__main__":
    main()
