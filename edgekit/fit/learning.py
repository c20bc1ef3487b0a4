"""The latency model of each device: found from an earlier search, or learnt from random networks."""

from __future__ import annotations

from edgekit.device.file import Device
from edgekit.fit.networks import Whole
from edgekit.fit.timing import Clock
from edgekit.fit.widths import narrowed
from edgekit.latency import store
from edgekit.latency.model import LatencyModel, Subject
from edgekit.search import latency_session

COUNT = 11
"""Networks to learn from, besides the whole one."""
WHOLE = latency_session.WHOLE


def model(whole: Whole, device: Device, clock: Clock) -> LatencyModel:
    """What predicts times on a device, in the engine that the clock has chosen.

    Args:
        whole: the network, trained or not.
        device: reached at least once by the clock.
        clock: where files and seconds are counted.

    Raises:
        Unreached: the device is gone.
        Shortfall: too few networks could be made or measured.
    """
    subject = _subject(whole, device, clock)
    found = store.find(subject)
    if found.model is not None:
        clock.console.say(f"fit: {device.name}: the latency model of an earlier search is used")
        return found.model
    clock.console.say(f"fit: {found.why}: {COUNT} random networks are timed")
    form, engine = clock.engines[device.name]
    plans = {f"random {n + 1}": p for n, p in enumerate(latency_session.random_plans(whole.planner.groups, COUNT))}
    shapes = {name: whole.planner.cost.shapes(latency_session.gone(plan)) for name, plan in plans.items()}
    files = {(WHOLE, form): whole.template.files(whole.module, whole.folder / WHOLE)[form]}
    for number, (name, plan) in enumerate(plans.items()):
        made = whole.template.files(narrowed(whole, plan), whole.folder / f"random-{number}")
        files[name, form] = made[form]
    shapes[WHOLE] = whole.planner.cost.shapes({})
    setting = whole.setting(device, form, engine, clock.console)
    with clock.counted(len(files) - 1):
        readings = latency_session.measure(files, setting)
        operators = latency_session.profiles(files, readings, setting)
    made_models = latency_session.models(readings, shapes, whole.net.name, setting, operators)
    learnt = next(each for each in made_models if each.subject.unit == "ms")
    store.save(learnt)
    return learnt


def _subject(whole: Whole, device: Device, clock: Clock) -> Subject:
    form, engine = clock.engines[device.name]
    row = clock.seen[device.name]
    return Subject(
        device=device.name,
        cpu=row.cpu,
        engine=engine,
        engine_version=row.engine_version,
        format=form,
        precision="int8" if whole.quantize else "fp32",
        threads=(device.run.threads or [1])[0],
        family=store.family(whole.net.name, whole.planner.cost.shapes({})),
        size=whole.spec.shape,
    )


def said(model: LatencyModel) -> str:
    """How good a model is, in words."""
    subject, errors = model.subject, model.errors
    return (
        f"{subject.format} in {subject.engine} {subject.engine_version}, {subject.threads} thread"
        f"{'s' if subject.threads > 1 else ''}, {model.kind}: {len(model.networks)} networks, each predicted from "
        f"the others to {errors.median:.1%} (median), {errors.p90:.1%} (90th percentile)"
    )
