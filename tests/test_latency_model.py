"""Latency models of devices whose true costs are known, and the layers of networks that are really pruned."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgekit.config import shipped
from edgekit.config.recipe import QuantizeSection
from edgekit.console import Console
from edgekit.device import file as device_file
from edgekit.device.file import Device
from edgekit.disk import json_file
from edgekit.errors import InputError, Shortfall
from edgekit.latency import store
from edgekit.latency.model import LatencyModel, Measured, Subject, fit
from edgekit.latency.shapes import LayerShape
from edgekit.measurements import OperatorProfile, OperatorRow
from edgekit.prune.apply import apply
from edgekit.prune.cost import Cost
from edgekit.prune.groups import ChannelGraph, Group
from edgekit.reach import sysroot
from edgekit.reach.ways import qemu
from edgekit.search import latency_session
from edgekit.search.latency_session import gone, plan_of, random_plans
from edgekit.search.stopwatch import Setting
from edgekit.types import PrunePlan
from tests import nets

QUIET = Console(quiet=True)
SIZE = 160
SUBJECT = Subject("board", "Cortex-A76", "litert", "2.3.0", "tflite", "int8", 1, "net", (3, SIZE, SIZE))
Device_ = Callable[[tuple[LayerShape, ...]], dict[str, float]]
"""Milliseconds of each layer."""


@cache
def net(name: str = "mobilenetv2_100", size: int = SIZE) -> tuple[nn.Module, tuple[Group, ...], Cost]:
    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=6).eval()
    groups = ChannelGraph(module, size).groups()
    return module, groups, Cost(module, groups, size)


@cache
def board(tile: int, seed: int = 0, slow: int = 1) -> Device_:
    """A device whose kernels handle so many channels at once; layers differ by up to 30 % in how well they use it.

    Depthwise layers of 8 and 24 channels write 8 of them `slow` times as slowly, and other layers the only 8.
    """
    rates = random.Random(seed)
    call, output = rates.uniform(1e3, 1e5), rates.uniform(5, 30)

    def times(shapes: tuple[LayerShape, ...]) -> dict[str, float]:
        took = {}
        for shape in shapes:
            macs = math.ceil(shape.outputs / tile) * tile * shape.kernel * shape.pixels
            if shape.kind == "depthwise":
                macs *= 3
            else:
                macs *= math.ceil(shape.inputs / tile) * tile
            skill = random.Random(f"{seed} {shape.name}").uniform(0.8, 1.25)
            written = float(shape.outputs)
            if shape.outputs == 8 or (shape.outputs == 24 and shape.kind == "depthwise"):
                written += (slow - 1) * 8
            took[shape.name] = (call + output * written * shape.pixels + macs) * skill / 2e7
        return took

    return times


def measured(plan: PrunePlan, device: Device_, noise: random.Random, name: str = "mobilenetv2_100") -> Measured:
    shapes = net(name)[2].shapes(gone(plan))
    return Measured(shapes, sum(device(shapes).values()) * noise.gauss(1, 0.01))


def operators(device: Device_) -> OperatorProfile:
    """What a profiler that is off by a few per cent says."""
    noise = random.Random(5)
    took = {name: ms * noise.gauss(1, 0.05) for name, ms in device(net()[2].shapes({})).items()}
    total = sum(took.values())
    rows = tuple(OperatorRow("CONV", name, ms, ms / total, "cpu", "int8") for name, ms in took.items())
    return OperatorProfile("whole", "litert", "2.3.0", "board", 1, "engine profiler", total, total, rows)


@cache
def learnt(device: Device_, profiled: bool, count: int = 12, seed: int = 1) -> LatencyModel:
    noise = random.Random(seed)
    whole = measured(PrunePlan({}, {}), device, noise)
    networks = [measured(plan, device, noise) for plan in random_plans(net()[1], count, seed=seed)]
    return fit(SUBJECT, whole, networks, operators(device) if profiled else None)


@pytest.mark.parametrize("profiled", [True, False])
def test_devices_costs_are_learnt_and_the_error_bars_cover(profiled: bool) -> None:
    errors, covered, wide = [], [], []
    for seed, tile in enumerate((1, 8, 16, 32, 1, 8, 16, 32)):
        device, noise = board(tile, seed), random.Random(100 + seed)
        model = learnt(device, profiled, seed=seed)
        for plan in random_plans(net()[1], 25, seed=50 + seed):
            other = measured(plan, device, noise)
            found = model.predict(other.shapes)
            errors.append(abs(found.ms / other.value - 1))
            covered.append(found.low <= other.value <= found.high)
            wide.append((found.high - found.low) / found.ms)
    assert np.median(errors) < 0.015  # times are uncertain by 0.01
    assert np.percentile(errors, 90) < 0.03
    assert 0.9 <= np.mean(covered) < 1
    assert np.median(wide) < 0.08  # not by saying nothing


@pytest.mark.parametrize("tile", [16, 32])
def test_the_width_of_the_kernels_is_found(tile: int) -> None:
    """Of the layers that matter: depthwise ones take a tenth of the time."""
    found = learnt(board(tile, seed=tile), profiled=False, count=24).tile
    assert (found.inputs, found.outputs) == (tile, tile)


@pytest.mark.parametrize("slow", [1, 8, 20])
def test_channels_that_fill_no_vector_are_noticed(slow: int) -> None:
    """Or a search would choose 24 channels where 32 are faster."""
    device = board(16, seed=3, slow=slow)
    model = learnt(device, profiled=True)
    assert (model.tile.stray > 1) == (slow > 1)
    noise = random.Random(9)
    others = [measured(plan, device, noise) for plan in random_plans(net()[1], 25, seed=77)]
    errors = [abs(model.predict(other.shapes).ms / other.value - 1) for other in others]
    assert np.median(errors) < 0.03
    first = net()[1][0]
    narrow, wide = (model.predict(net()[2].shapes({first.head: 32 - left})).ms for left in (24, 32))
    assert (narrow > wide) == (slow > 1)


def test_held_out_errors_are_those_of_models_without_that_network() -> None:
    device, noise = board(8), random.Random(1)
    whole = measured(PrunePlan({}, {}), device, noise)
    networks = [measured(plan, device, noise) for plan in random_plans(net()[1], 8, seed=1)]
    model = fit(SUBJECT, whole, networks)
    for place, each in enumerate(model.networks):
        without = fit(SUBJECT, whole, [*networks[:place], *networks[place + 1 :]])
        if (without.tile, without.spread) == (model.tile, model.spread):
            assert without.predict(networks[place].shapes).ms == pytest.approx(each.predicted.ms, rel=1e-6)
    assert model.errors.median == pytest.approx(
        np.median([abs(each.predicted.ms / each.measured - 1) for each in model.networks])
    )


def test_more_networks_narrow_the_error_bars() -> None:
    shapes = net()[2].shapes(gone(random_plans(net()[1], 1, seed=9)[0]))
    found = {count: [learnt(board(8), False, count, seed).predict(shapes) for seed in range(3)] for count in (5, 40)}
    few, many = (np.mean([each.high - each.low for each in found[count]]) for count in found)
    assert few > many


def test_a_model_says_what_the_whole_network_takes() -> None:
    model = learnt(board(8), profiled=True)
    found = model.predict(model.whole.shapes)
    assert found.ms == pytest.approx(model.whole.value, rel=0.02)
    assert found.low < found.ms < found.high


def test_an_estimates_own_error_bar_is_added() -> None:
    model = learnt(board(8), profiled=True)
    inner, outer = (each.predict(model.whole.shapes) for each in (model, replace(model, bar=0.2)))
    assert outer.low == pytest.approx(0.8 * inner.low)
    assert outer.high == pytest.approx(1.2 * inner.high)
    assert outer.ms == inner.ms


def test_networks_without_some_blocks_are_predicted() -> None:
    device, dropped = board(8), ("blocks.2.1.", "blocks.3.2.", "blocks.3.3.")
    model = learnt(device, profiled=True)
    for plan in (PrunePlan({}, {}), *random_plans(net()[1], 3, seed=9)):
        left = tuple(shape for shape in net()[2].shapes(gone(plan)) if not shape.name.startswith(dropped))
        assert len(left) == len(model.whole.shapes) - 9
        assert model.predict(left).ms == pytest.approx(sum(device(left).values()), rel=0.03)


def test_a_network_of_other_layers_is_refused() -> None:
    model = learnt(board(8), profiled=False)
    shapes = model.whole.shapes
    for other in (shapes[1:], (*shapes[:3], shapes[4], shapes[3]), (*shapes, replace(shapes[-1], name="extra"))):
        with pytest.raises(InputError, match="other layers"):
            model.predict(other)


def test_too_few_networks_are_refused() -> None:
    with pytest.raises(Shortfall, match="at least 4"):
        learnt(board(8), profiled=False, count=3)


def test_larger_images_take_longer() -> None:
    module, groups, _ = net()
    device, model = board(8), learnt(board(8), profiled=True)
    for size in (128, 192, 224):
        shapes = Cost(module, groups, size).shapes({})
        found = model.predict(shapes)
        assert found.low < sum(device(shapes).values()) < found.high
        assert found.high - found.low < 0.25 * found.ms


def test_a_model_survives_its_file(tmp_path: Path) -> None:
    model = learnt(board(8), profiled=True)
    json_file.save(tmp_path / "model.json", model)
    again = json_file.load(tmp_path / "model.json", LatencyModel)
    assert again == model
    shapes = net()[2].shapes(gone(random_plans(net()[1], 1)[0]))
    assert again.predict(shapes) == model.predict(shapes)


def test_the_store_keeps_one_model_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = learnt(board(8), profiled=False)
    assert store.find(SUBJECT).model is None
    assert "not been measured" in store.find(SUBJECT).why
    path = store.save(model)
    assert path.is_relative_to(tmp_path / "edgekit" / "latency")
    assert store.find(SUBJECT) == store.Found(model)
    others: dict[str, Any] = dict.fromkeys(("device", "cpu", "engine", "format", "precision", "family"), "x")
    for key, value in {**others, "threads": 2, "size": (3, 96, 96), "unit": "instructions"}.items():
        assert store.find(replace(SUBJECT, **{key: value})).model is None, key


def test_a_model_of_another_engine_version_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = learnt(board(8), profiled=False)
    store.save(model)
    newer = replace(SUBJECT, engine_version="3.0.0")
    found = store.find(newer)
    assert found.model is None
    assert "2.3.0" in found.why
    assert "3.0.0" in found.why
    store.save(replace(model, subject=newer))
    assert store.find(SUBJECT).model is None
    assert store.find(newer).model is not None


def test_a_damaged_file_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    store.save(learnt(board(8), profiled=False)).write_text("{}")
    assert "cannot be read" in store.find(SUBJECT).why


def by_hand(module: nn.Module, size: int) -> list[tuple[object, ...]]:
    """What `Cost.shapes` says, read from a network that exists."""
    seen: list[tuple[object, ...]] = []
    names = {child: name for name, child in module.named_modules()}

    def note(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if isinstance(layer, nn.Linear):
            seen.append((names[layer], "linear", layer.in_features, layer.out_features, 1, 1, 1, 1))
        elif isinstance(layer, nn.Conv2d):
            kernel = layer.kernel_size[0] * layer.kernel_size[1]
            kind = "depthwise" if layer.groups > 1 else "pointwise" if kernel == 1 else "dense"
            before, after = (each.shape[2] * each.shape[3] for each in (inputs[0], output))
            sizes = layer.in_channels, layer.out_channels, kernel, before, after, layer.groups
            seen.append((names[layer], kind, *sizes))

    for child in names:
        child.register_forward_hook(note)
    with torch.no_grad():
        module(torch.zeros(1, 3, size, size))
    return seen


@settings(max_examples=8, deadline=None)
@given(
    name=st.sampled_from(["mobilenetv2_100", "mobilenetv3_small_100", "efficientnet_lite0", "resnet18"]),
    size=st.sampled_from([32, 64]),
    seed=st.integers(0, 1000),
    round_to=st.sampled_from([1, 4, 8]),
)
def test_shapes_are_those_of_the_pruned_network(name: str, size: int, seed: int, round_to: int) -> None:
    module, groups, _ = net(name, 32)
    plan = random_plans(groups, 3, round_to, seed)[seed % 3]
    narrow = copy.deepcopy(module)
    apply(narrow, plan, 32)
    shapes = Cost(module, groups, size).shapes(gone(plan))
    found = [
        (each.name, each.kind, each.inputs, each.outputs, each.kernel, each.in_pixels, each.pixels, each.groups)
        for each in shapes
    ]
    assert found == by_hand(narrow, size)


def test_random_plans_spread_over_all_shares() -> None:
    groups = net()[1]
    plans = random_plans(groups, 12, 8, seed=3)
    assert plans == random_plans(groups, 12, 8, seed=3)
    assert plans != random_plans(groups, 12, 8, seed=4)
    for plan in plans:
        assert all(len(kept) % 8 == 0 for kept in plan.kept.values())
    macs = [net()[2]("macs", gone(plan)) / net()[2]("macs", {}) for plan in plans]
    assert min(macs) < 0.15
    assert max(macs) > 0.7
    assert plan_of(groups, {}) == PrunePlan({}, {})


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[LatencyModel, ...], Cost]:
    """A real, very short one."""
    module = nets.settled(nets.Every())
    groups = [group for group in ChannelGraph(module, 32).groups() if group.channels > 4]
    setting = Setting(
        "host", Device(name="host"), ["onnx", "tflite"], QuantizeSection(), 32, list(nets.images(2)), nets.LEVELS,
        tmp_path_factory.mktemp("session"), QUIET,
    )  # fmt: skip
    models = latency_session.learn(module, groups, "every", setting, count=5, round_to=4, seconds=0.1)
    return models, Cost(module, groups, 32)


def test_a_session_learns_one_model_an_engine(session: tuple[tuple[LatencyModel, ...], Cost]) -> None:
    models, cost = session
    assert {(each.subject.engine, each.subject.format) for each in models} == {
        ("litert", "tflite"),
        ("onnxruntime", "onnx"),
    }
    for model in models:
        assert model.kind == "measured"
        assert (model.subject.unit, model.subject.size, model.subject.threads) == ("ms", (3, 32, 32), 1)
        assert model.subject.engine_version
        assert len(model.networks) == 5
        assert model.whole.shapes == cost.shapes({})
        assert 0 < model.predict(cost.shapes({})).ms < 100


def test_an_emulated_device_counts_instructions_and_estimates_milliseconds(tmp_path: Path) -> None:
    pi = device_file.load(shipped.find("devices", "rpi5-emulated"))
    lacking = sysroot.missing("cortex-a76")
    if lacking:
        pytest.skip(lacking)
    module = nets.settled(nets.Every())
    groups = [group for group in ChannelGraph(module, 32).groups() if group.channels > 4]
    setting = Setting("pi", pi, ["tflite"], QuantizeSection(), 32, list(nets.images(2)), nets.LEVELS, tmp_path, QUIET)
    time, counts = latency_session.learn(module, groups, "every", setting, count=4, round_to=4)
    assert (time.subject.unit, time.kind) == ("ms", "estimated")
    assert (counts.subject.unit, counts.kind) == ("instructions", "measured")
    assert time.bar > 0.05  # what the device file's published times leave open
    assert counts.bar == 0
    assert (time.subject.threads, counts.subject.threads) == (4, 1)  # counts are always of one thread
    assert counts.whole.value == qemu.count(tmp_path / "whole" / "model-int8.tflite", "litert", pi).instructions
    found = time.predict(time.whole.shapes)
    assert found.low < found.ms * (1 - time.bar)
    assert found.high > found.ms * (1 + time.bar)


def test_no_engine_for_the_formats_is_refused(tmp_path: Path) -> None:
    setting = Setting(
        "host", Device(name="host"), ["executorch"], QuantizeSection(), 32, list(nets.images(2)), nets.LEVELS,
        tmp_path, QUIET,
    )  # fmt: skip
    with pytest.raises(InputError, match="no engine for executorch"):
        latency_session.learn(nets.Every(), [], "every", setting)


def test_a_whole_network_that_was_not_measured_is_a_shortfall() -> None:
    setting = Setting("host", Device(name="host"), ["onnx"], None, 32, [], nets.LEVELS, Path(), QUIET)
    reading = latency_session.Reading("random 1", "onnx", "onnxruntime", "1", "cpu", 1, "ms", "measured", 1.0)
    shapes: Mapping[str, tuple[LayerShape, ...]] = {"random 1": ()}
    with pytest.raises(Shortfall, match="whole network"):
        latency_session.models([reading], shapes, "net", setting, {})
