"""The latency model of each device of a search, and how good it is in words."""

from __future__ import annotations

from edgekit.device.file import Device
from edgekit.fit.networks import Whole
from edgekit.fit.timing import Clock
from edgekit.latency.model import LatencyModel
from edgekit.report.svg import threads
from edgekit.search import latency_models
from edgekit.search.stopwatch import Where


def model(whole: Whole, device: Device, clock: Clock) -> LatencyModel:
    """What predicts times on a device, in the engine that the clock has chosen there.

    Args:
        whole: the network, trained or not.
        device: the clock has timed something on it.
        clock: where files and seconds are counted.

    Raises:
        Unreached: the device is gone.
        Shortfall: too few networks could be made or measured.
    """
    row = clock.seen[device.name]
    where = Where(row.format, row.engine, row.engine_version, row.cpu)
    setting = whole.files.setting(device, row.format, row.engine, clock.console)
    with clock.counted(0):
        found, files = latency_models.find_or_learn(
            whole.net.name, whole.module, whole.planner, whole.files, setting, where
        )
    clock.files += files
    return found


def said(model: LatencyModel) -> str:
    """How good a model is, in words."""
    subject, errors = model.subject, model.errors
    return (
        f"{subject.format} in {subject.engine} {subject.engine_version}, {threads(subject.threads)}, {model.kind}: "
        f"{len(model.networks)} networks, each predicted from the others to {errors.median:.1%} (median), "
        f"{errors.p90:.1%} (90th percentile)"
    )
