"""How far off latency models are: 12 random networks train them, 12 others and some uniform ones are held out.

Int8 networks for 6 classes with random weights, at 160 px, in both engines of this machine. All are timed in one
session, which takes about four minutes a net on an idle machine; other work on it spoils the times.

Usage::

    python benchmarks/latency_model.py                       # the nets of `NETS` on this machine
    python benchmarks/latency_model.py mobilenetv2_100 --seconds 4
    python benchmarks/latency_model.py --emulated            # instructions on rpi5-emulated: about 15 minutes a net

"error" is |predicted / measured - 1| of the held-out networks, "left out" the same of the 12 that trained it, each
predicted from the others; "covered" is how many of the held-out ones lie within the 95 % interval, "width" is half of
that interval. The exit status is 1 if an error is above the bar: 5 % median and 10 % 90th percentile; 2 % median for
instructions.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from _nets import LEVELS, images, network

from edgekit.config.recipe import QuantizeSection
from edgekit.console import Console
from edgekit.device.file import Device, load
from edgekit.latency.model import LatencyModel
from edgekit.prune.cost import Cost
from edgekit.prune.groups import ChannelGraph, Group
from edgekit.search import latency_session as session
from edgekit.search.stopwatch import Setting
from edgekit.types import PrunePlan

NETS = ("mobilenetv2_100", "mobilenetv3_small_100", "efficientnet_lite0")
EMULATED = Path(__file__).parents[1] / "devices" / "rpi5-emulated.toml"
SIZE, CLASSES, ROUND_TO = 160, 6, 8
UNIFORM = (0.25, 0.5, 0.75, 0.9)
"""Shares of channels of held-out networks whose groups all lose the same."""
BARS = {"ms": (0.05, 0.10), "instructions": (0.02, np.inf)}
"""Largest median and 90th percentile of the error."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--emulated", action="store_true")
    parser.add_argument("--seconds", type=float, default=session.SECONDS)
    parser.add_argument("names", nargs="*")
    given = parser.parse_args()
    torch.set_num_threads(1)
    device = load(EMULATED) if given.emulated else Device(name="host")
    short = 0
    print(f"{'net':<24} {'engine':<12} {'unit':<13} {'whole':>10} {'tile':>11} {'error':>13} {'left out':>13}", end="")
    print(f" {'covered':>8} {'width':>6}  prior")
    for name in given.names or NETS:
        with tempfile.TemporaryDirectory() as folder:
            short += measure(name, device, given.seconds, Path(folder))
    sys.exit(short > 0)


def measure(name: str, device: Device, seconds: float, folder: Path) -> int:
    """Print the rows of a net; returns how many miss the bar."""
    whole = network(name, SIZE, CLASSES)
    graph = ChannelGraph(whole, SIZE).groups()
    groups = [group for group in graph if group.channels > ROUND_TO]
    plans = {session.WHOLE: PrunePlan({}, {})}
    for title, seed in (("train", 1), ("held out", 2)):
        drawn = session.random_plans(groups, round_to=ROUND_TO, seed=seed)
        plans |= {f"{title} {place}": plan for place, plan in enumerate(drawn)}
    plans |= {f"uniform {share:.0%}": session.plan_of(groups, uniform(groups, share)) for share in UNIFORM}
    pixels = list(images(2, SIZE))
    formats = ["onnx", "tflite"]
    console = Console(quiet=True)
    setting = Setting(device.name, device, formats, QuantizeSection(), SIZE, pixels, LEVELS, folder, console)
    files = session.make_files(whole, plans, setting, formats)
    readings = session.measure(files, setting, seconds)
    cost = Cost(whole, graph, SIZE)
    shapes = {label: cost.shapes(session.gone(plan)) for label, plan in plans.items()}
    training = [each for each in readings if each.network == session.WHOLE or each.network.startswith("train")]
    operators = session.profiles(files, readings, setting, seconds)
    short = 0
    for model in session.models(training, shapes, name, setting, operators):
        about = model.subject
        found = [
            (model.predict(shapes[each.network]), each.value)
            for each in readings
            if each not in training and (each.engine, each.unit) == (about.engine, about.unit)
        ]
        errors = np.array([abs(predicted.ms / value - 1) for predicted, value in found])
        covered = np.mean([predicted.low <= value <= predicted.high for predicted, value in found])
        width = np.median([(predicted.high - predicted.low) / 2 / predicted.ms for predicted, _ in found])
        median, p90 = np.median(errors), np.percentile(errors, 90)
        print(row(name, model, float(median), float(p90), float(covered), float(width)), flush=True)
        bar = BARS[about.unit]
        short += bool(median > bar[0] or p90 > bar[1])
    return short


def uniform(groups: Sequence[Group], share: float) -> dict[str, int]:
    """The width of each group at a share of its channels."""
    return {group.head: max(ROUND_TO, round(share * group.channels / ROUND_TO) * ROUND_TO) for group in groups}


def row(name: str, model: LatencyModel, median: float, p90: float, covered: float, width: float) -> str:
    """One line of the table."""
    about, left = model.subject, model.errors
    tile = f"{model.tile.inputs}/{model.tile.outputs}/{model.tile.depthwise}/{model.tile.stray}"
    return (
        f"{name:<24} {about.engine:<12} {about.unit:<13} {model.whole.value:>10.4g} {tile:>11} "
        f"{median:>6.1%} {p90:>6.1%} {left.median:>6.1%} {left.p90:>6.1%} {covered:>8.0%} {width:>6.1%}  "
        f"{model.prior.source}"
    )


if __name__ == "__main__":
    main()
