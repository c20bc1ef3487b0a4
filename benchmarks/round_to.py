"""What `prune.round_to` costs or saves: int8 files pruned to the same share of multiply-adds, in multiples of 8 and 16.

Networks for 6 classes with random weights, at 160 px, pruned by their L2 norms. All files of a network are timed in one
session, in both engines of this machine, which takes about two minutes; other work on it spoils the times.

Usage::

    python benchmarks/round_to.py                   # the networks of `NETS`
    python benchmarks/round_to.py mobilenetv2_100

A row is one share: milliseconds with multiples of 8, with multiples of 16, and how many times faster those are. Two
rows show what few channels cost: the narrowest networks, with 8 channels everywhere and with 16, and networks whose
first layers alone have 24 channels and 32.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from _nets import LEVELS, images, network

from edgekit.config.recipe import PruneSection, QuantizeSection
from edgekit.console import Console
from edgekit.device.file import Device
from edgekit.prune.aim import counted
from edgekit.prune.planning import Planner
from edgekit.search import latency_session as session
from edgekit.search.stopwatch import Setting
from edgekit.types import PrunePlan

NETS = ("mobilenetv2_100", "efficientnet_lite0")
SIZE, CLASSES = 160, 6
SHARES, MULTIPLES = (0.7, 0.5, 0.35), (8, 16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'net':<20} {'engine':<12} {'left':>12} {'8':>9} {'16':>9} {'faster':>7}")
    for name in given.names or NETS:
        with tempfile.TemporaryDirectory() as folder:
            measure(name, Path(folder))


def measure(name: str, folder: Path) -> None:
    """Print the rows of a network."""
    whole = network(name, SIZE, CLASSES)
    plans = {session.WHOLE: PrunePlan({}, {})}
    pairs = {f"{share:.0%}": [plan(whole, share, multiple) for multiple in MULTIPLES] for share in SHARES}
    planner = Planner(whole, SIZE, PruneSection(score="l2", macs=0.5), lambda: ())
    pairs["narrowest"] = list(planner.least)
    first = planner.groups[0]
    pairs["first 24, 32"] = [session.plan_of([first], {first.head: width}) for width in (24, 32)]
    plans |= {f"{title} {place}": each for title, pair in pairs.items() for place, each in enumerate(pair)}
    device, formats = Device(name="host"), ["onnx", "tflite"]
    pixels, console = list(images(2, SIZE)), Console(quiet=True)
    setting = Setting(device.name, device, formats, QuantizeSection(), SIZE, pixels, LEVELS, folder, console)
    readings = session.measure(session.make_files(whole, plans, setting, formats), setting)
    ms = {(each.engine, each.network): each.value for each in readings}
    for engine in dict.fromkeys(each.engine for each in readings):
        for title in pairs:
            eight, sixteen = ms[engine, f"{title} 0"], ms[engine, f"{title} 1"]
            row = f"{name:<20} {engine:<12} {title:>12} {eight:>6.3f} ms {sixteen:>6.3f} ms {eight / sixteen:>6.2f}x"
            print(row, flush=True)


def plan(whole: torch.nn.Module, share: float, multiple: int) -> PrunePlan:
    """Which channels stay, by their norms."""
    section = PruneSection(score="l2", steps=1, macs=share, round_to=multiple)
    return Planner(whole, SIZE, section, lambda: ()).plan(counted("macs", share))


if __name__ == "__main__":
    main()
