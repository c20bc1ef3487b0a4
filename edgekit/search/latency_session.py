"""Learns how fast a network of any widths is on a device, from random narrower versions of it that are timed there."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from edgekit.errors import InputError, Shortfall, Unreached
from edgekit.latency import store
from edgekit.latency.model import LatencyModel, Measured, Subject, Unit, fit
from edgekit.latency.shapes import LayerShape
from edgekit.measurements import Kind, OperatorProfile
from edgekit.profile.operators import profile_operators
from edgekit.profile.run import profile
from edgekit.prune.apply import apply
from edgekit.prune.cost import Cost
from edgekit.prune.groups import Group
from edgekit.reach.port import way
from edgekit.search import trial_files
from edgekit.search.narrow_files import Template
from edgekit.search.stopwatch import Setting
from edgekit.types import PrunePlan, shape_of

COUNT = 12
"""Networks to learn from, besides the whole one."""
SECONDS = 2.0
"""Measured seconds per file and engine."""
LEAST, JITTER, NARROWEST = 0.2, 0.25, 0.1
"""The smallest share of channels of a plan, by how much its groups differ from that, and the smallest of a group."""
WHOLE = "whole"
Files = Callable[[nn.Module, str], Mapping[str, Path]]
"""Writes the files of a network, by format, in a folder of that name."""


@dataclass(frozen=True)
class Reading:
    """What one file took in one engine."""

    network: str
    form: str
    engine: str
    engine_version: str
    cpu: str
    threads: int
    unit: Unit
    kind: Kind
    value: float
    bar: float = 0.0
    """Relative error bar of an estimate."""


def random_plans(groups: Sequence[Group], count: int = COUNT, round_to: int = 8, seed: int = 0) -> list[PrunePlan]:
    """Plans that differ as much as possible: global shares spread evenly, and each group a little off them.

    Which channels stay is of no importance to time: the first ones do.

    Args:
        groups: those that may get narrower.
        count: how many plans; their shares of channels are one in each of so many equal parts of `LEAST` .. 1.
        round_to: widths are multiples of this, unless a group stays as wide as it is.
        seed: the same one gives the same plans.
    """
    draw = random.Random(seed)  # noqa: S311
    plans = []
    for place in range(count):
        share = LEAST + (1 - LEAST) * (place + draw.random()) / count
        widths = {group.head: _width(group, share + draw.uniform(-JITTER, JITTER), round_to) for group in groups}
        plans.append(plan_of(groups, widths))
    return plans


def _width(group: Group, share: float, round_to: int) -> int:
    steps = max(1, round(max(share, NARROWEST) * group.channels / round_to))
    return min(group.channels, steps * round_to)


def plan_of(groups: Sequence[Group], widths: Mapping[str, int]) -> PrunePlan:
    """The plan that keeps the first channels of each group: as many as `widths` says by head, else all."""
    narrower = [group for group in groups if widths.get(group.head, group.channels) < group.channels]
    return PrunePlan(
        {group.head: tuple(range(widths[group.head])) for group in narrower},
        {group.head: group.channels for group in narrower},
    )


def gone(plan: PrunePlan) -> dict[str, int]:
    """How many channels a plan removes, by head, as `Cost` takes it."""
    return {head: plan.of[head] - len(kept) for head, kept in plan.kept.items()}


def learn(
    whole: nn.Module,
    groups: Sequence[Group],
    name: str,
    setting: Setting,
    files: Files | None = None,
    count: int = COUNT,
    round_to: int = 8,
    seconds: float = SECONDS,
    seed: int = 0,
) -> tuple[LatencyModel, ...]:
    """Time random narrower networks side by side with the whole one, and learn from them.

    Args:
        whole: the unpruned network, in eval mode.
        groups: those that may get narrower.
        name: of the network, for `edgekit.latency.store`.
        setting: device, formats and how files are made.
        files: makes them; None cuts them from the whole network's.
        count: how many networks besides the whole one.
        round_to: their widths are multiples of this.
        seconds: measured time per file and engine.
        seed: of the widths.

    Returns:
        One model in milliseconds for each engine and format of the device; on an emulated device these are estimates,
        and models in instructions follow.

    Raises:
        InputError: the device runs none of the formats.
        Unreached: the device was not reached.
        Shortfall: too few networks could be made or measured.
    """
    formats = [form for form in setting.formats if trial_files.engines_for([form], setting.on)]
    if not formats:
        raise InputError(
            f"latency: {setting.device} has no engine for {' or '.join(setting.formats)} files "
            f"(its engines: {', '.join(setting.on.run.engines)})"
        )
    cost = Cost(whole, groups, setting.size)
    plans = {f"random-{place + 1}": plan for place, plan in enumerate(random_plans(groups, count, round_to, seed))}
    plans[WHOLE] = PrunePlan({}, {})
    shapes = {label: cost.shapes(gone(plan)) for label, plan in plans.items()}
    made = make_files(whole, plans, setting, formats, files)
    readings = measure(made, setting, seconds)
    operators = profiles(made, readings, setting, seconds)
    return models(readings, shapes, name, setting, operators)


def make_files(
    whole: nn.Module,
    plans: Mapping[str, PrunePlan],
    setting: Setting,
    formats: Sequence[str],
    files: Files | None = None,
) -> dict[tuple[str, str], Path]:
    """The file of each plan by the plan's name and the format; `files` as for `learn`."""
    if files is None:
        files = cutter(whole, setting, formats)
    made: dict[tuple[str, str], Path] = {}
    with setting.console.bar("cutting networks", len(plans)) as advance:
        for label, plan in plans.items():
            narrow = copy.deepcopy(whole)
            apply(narrow, plan, setting.size)
            paths = files(narrow, label)
            made |= {(label, form): paths[form] for form in formats}
            advance(1, label)
    return made


def cutter(whole: nn.Module, setting: Setting, formats: Sequence[str]) -> Files:
    """Makes files by cutting those of the whole network, which are made here."""
    where = setting.folder / "template"
    template = Template(whole, setting.size, setting.images, setting.pixels, setting.quantize, formats, where)
    return lambda module, name: template.files(module, setting.folder / name)


def measure(files: Mapping[tuple[str, str], Path], setting: Setting, seconds: float = SECONDS) -> list[Reading]:
    """Time files in turns with each engine of the device that runs them; count instructions on an emulated one.

    Networks are compared by their undisturbed inferences (`trial_files.Trial.fast_ms`); what the whole network then
    takes is the p50 of its quietest round, as it is everywhere else.

    Args:
        files: as `make_files` returns them.
        setting: the device.
        seconds: measured time of each file in each engine.

    Raises:
        Unreached: the device was not reached.
        Shortfall: nothing could be measured.
    """
    if not trial_files.is_timed(setting.on):
        return _estimates(files, setting)
    names = {f"{label} {form}": (label, form) for label, form in files}
    trials = trial_files.time_files(
        {f"{label} {form}": path for (label, form), path in files.items()},
        {setting.device: setting.on},
        setting.console,
        seconds,
    )
    if not trials.rows:
        raise Unreached(trials.missing)
    whole = {row.engine: row for row in trials.rows if names[row.file][0] == WHOLE}
    readings = []
    for row in trials.rows:
        usual = whole.get(row.engine, row)
        ms = row.fast_ms * usual.ms / usual.fast_ms
        readings.append(
            Reading(*names[row.file], row.engine, row.engine_version, row.machine.cpu, 1, "ms", "measured", ms)
        )
    return readings


def _estimates(files: Mapping[tuple[str, str], Path], setting: Setting) -> list[Reading]:
    """What the profile stage says of an emulated device: instructions, and milliseconds estimated from them."""
    names = {f"{label} {form}": (label, form) for label, form in files}
    trials = [
        trial_files.TrialFile(f"{label} {form}", form, str(path.resolve())) for (label, form), path in files.items()
    ]
    found = profile(trials, Path(), {setting.device: setting.on}, setting.console)
    readings = []
    for row in found.timings:
        assert row.instructions is not None
        assert row.p50_ci is not None
        about = *names[row.artifact], row.engine, row.engine_version, found.machines[setting.device].cpu
        bar = row.p50_ci[1] / row.p50_ms - 1
        readings += [
            Reading(*about, row.threads, "ms", "estimated", row.p50_ms, bar),
            Reading(*about, 1, "instructions", "measured", float(row.instructions)),
        ]
    return readings


def profiles(
    files: Mapping[tuple[str, str], Path], readings: Sequence[Reading], setting: Setting, seconds: float = SECONDS
) -> dict[str, OperatorProfile]:
    """Where the whole network's time goes, by engine; without engines where that cannot be had (a line says so).

    Args:
        files: as `make_files` returns them.
        readings: whose engines count.
        setting: the device.
        seconds: measured time of each engine.
    """
    if not trial_files.is_timed(setting.on):
        return {}
    reach = way(setting.on.reach.by, f"{setting.device}: reach.by")
    found = {}
    for engine, form in dict.fromkeys((each.engine, each.form) for each in readings):
        try:
            found[engine] = profile_operators(
                reach.send(files[WHOLE, form], setting.on),
                WHOLE,
                engine,
                seconds=seconds,
                device=setting.device,
                start=lambda argv: reach.start(argv, setting.on),
            )
        except (Shortfall, InputError) as trouble:
            setting.console.say(f"  {trouble}: its latency model starts from usual costs")
    return found


def models(
    readings: Sequence[Reading],
    shapes: Mapping[str, tuple[LayerShape, ...]],
    name: str,
    setting: Setting,
    operators: Mapping[str, OperatorProfile],
) -> tuple[LatencyModel, ...]:
    """A model for each unit, format and engine that was measured.

    Args:
        readings: of the whole network and of narrower ones.
        shapes: their layers, by name.
        name: of the network, for `edgekit.latency.store`.
        setting: the device.
        operators: profiles of the whole network, by engine.

    Raises:
        Shortfall: too few networks could be measured.
    """
    made = []
    for unit, form, engine in dict.fromkeys((each.unit, each.form, each.engine) for each in readings):
        rows = {each.network: each for each in readings if (each.unit, each.form, each.engine) == (unit, form, engine)}
        if WHOLE not in rows:
            raise Shortfall(f"{engine} on {setting.device}: the whole network could not be measured")
        first = rows[WHOLE]
        subject = Subject(
            device=setting.device,
            cpu=first.cpu,
            engine=engine,
            engine_version=first.engine_version,
            format=form,
            precision="int8" if setting.quantize else "fp32",
            threads=first.threads,
            family=store.family(name, shapes[WHOLE]),
            size=shape_of(setting.size),
            unit=unit,
        )
        measured = {label: Measured(shapes[label], row.value) for label, row in rows.items()}
        whole = measured.pop(WHOLE)
        bar = max(row.bar for row in rows.values())
        model = fit(subject, whole, list(measured.values()), operators.get(engine), first.kind, bar)
        setting.console.say(
            f"  {engine} {form}, {unit}: held-out networks are predicted to {model.errors.median:.1%} (median), "
            f"{model.errors.p90:.1%} (90th percentile)"
        )
        made.append(model)
    return tuple(made)
